"""Every word of the embedded model's world."""

from __future__ import annotations

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
DIGITS = tuple("0123456789")
NOUNS = (*SHAPES, "digit")
PLURALS = {noun: "crosses" if noun == "cross" else noun + "s" for noun in NOUNS}
COLORS = {
    "red": (225, 30, 30),
    "green": (30, 180, 50),
    "blue": (40, 70, 235),
    "yellow": (245, 225, 40),
    "purple": (160, 40, 200),
    "orange": (250, 135, 15),
    "cyan": (40, 220, 225),
    "white": (245, 245, 245),
}
COLOR_NAMES = tuple(COLORS)
PLACES = ("top-left", "top-right", "bottom-left", "bottom-right")
SIDES = ("left", "right", "above", "below")

# One colour of every noun never occurs in training, neither drawn nor asked about.
UNSEEN = frozenset(zip(NOUNS, COLOR_NAMES[:7], strict=True))

SPECIAL = ("<pad>", "<bos>", "<eos>", "<image>", "<unk>")
WORDS = (
    *"? . , is there a an the what which color shape how many thing things digit number".split(),
    *"shown are where big you see do to of in it list all picture has".split(),
    *("left", "right", "above", "below", "yes", "no", "none"),
    *SHAPES,
    *(PLURALS[shape] for shape in SHAPES),
    *DIGITS,
    *COLOR_NAMES,
    *PLACES,
)
VOCABULARY = (*SPECIAL, *WORDS)
