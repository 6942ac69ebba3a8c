"""Questions about a scene, their answers, and what in the image each phrase speaks of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from otprune.demo.words import COLOR_NAMES, NOUNS, PLACES, PLURALS, SHAPES, SIDES, UNSEEN
from otprune_training.scenes import SIZE, Scene, Sticker

CLEAR = 5  # pixels between a sticker's centre and the image's middle lines, for a clear place


@dataclass(frozen=True)
class Question:
    """One question: its words, its answer's words and its mentions.

    A mention is (index of a word, indices of the stickers that the phrase ending there means);
    an empty tuple of stickers means that nothing of the kind is in the image.
    """

    kind: str
    text: str
    answer: str
    mentions: tuple[tuple[int, tuple[int, ...]], ...]


def ask(
    scene: Scene, rng: np.random.Generator, kind: str, *, unseen: bool = False
) -> Question | None:
    """A random question of one kind, None where the scene has none; see `KINDS`."""
    return KINDS[kind](scene, rng, unseen)


def ask_many(
    scene: Scene, rng: np.random.Generator, kinds: Iterable[str], *, unseen: bool = False
) -> list[Question]:
    """One question for each name in `kinds`, without those that the scene does not allow."""
    asked = (ask(scene, rng, kind, unseen=unseen) for kind in kinds)
    return [question for question in asked if question is not None]


def _question(
    kind: str, words: Sequence[str | tuple[str, tuple[int, ...]]], answer: str
) -> Question:
    """Join phrases; a phrase that means stickers is a pair (phrase, sticker indices)."""
    text: list[str] = []
    mentions = []
    for part in words:
        phrase, meant = part if isinstance(part, tuple) else (part, None)
        text += phrase.split()
        if meant is not None:
            mentions.append((len(text) - 1, meant))
    return Question(kind, " ".join(text), answer, tuple(mentions))


def _pick(rng: np.random.Generator, items: Sequence[str]) -> str:
    return items[int(rng.integers(len(items)))]


def _indices(scene: Scene, want: Callable[[Sticker], bool]) -> tuple[int, ...]:
    return tuple(i for i, s in enumerate(scene.stickers) if want(s))


def _is(color: str = "", noun: str = "") -> Callable[[Sticker], bool]:
    return lambda s: color in ("", s.color) and noun in ("", s.noun)


def _exist(scene: Scene, rng: np.random.Generator, unseen: bool) -> Question | None:
    start = _pick(rng, ("is there", "is there", "do you see"))
    wanted = bool(rng.random() < 0.5)
    for _ in range(30):
        chosen = scene.stickers[rng.integers(len(scene.stickers))]
        color, noun = chosen.color, chosen.noun
        if not wanted:
            # An absentee that is hard to tell shares colour or noun with something that is there.
            change = rng.random()
            color = color if change < 0.42 else _pick(rng, COLOR_NAMES)
            noun = _pick(rng, NOUNS) if change < 0.42 or change > 0.84 else noun
        if (noun, color) in UNSEEN and not unseen:
            continue
        style = rng.random()
        if style < 0.7:
            phrase, found = f"{color} {noun}", _indices(scene, _is(color=color, noun=noun))
        elif style < 0.85:
            phrase, found = noun, _indices(scene, _is(noun=noun))
        else:
            phrase, found = f"{color} thing", _indices(scene, _is(color=color))
        if bool(found) == wanted:
            article = "an" if phrase[0] in "aeiou" else "a"
            words = (start, article, (phrase, found), "?")
            return _question("existence", words, "yes" if wanted else "no")
    return None


def _color(scene: Scene, rng: np.random.Generator, unseen: bool) -> Question | None:
    nouns = [s.noun for s in scene.stickers]
    single = [i for i, noun in enumerate(nouns) if nouns.count(noun) == 1]
    if not single:
        return None
    i = int(rng.choice(single))
    return _question("color", ("what color is the", (nouns[i], (i,)), "?"), scene.stickers[i].color)


def _shape(scene: Scene, rng: np.random.Generator, unseen: bool) -> Question | None:
    colors = [s.color for s in scene.stickers]
    single = [i for i, color in enumerate(colors) if colors.count(color) == 1]
    if not single:
        return None
    i = int(rng.choice(single))
    if rng.random() < 0.5:
        words = ("what shape is the", (f"{colors[i]} thing", (i,)), "?")
    else:
        words = ("which shape is", (colors[i], (i,)), "?")
    return _question("shape", words, scene.stickers[i].noun)


def _position(scene: Scene, rng: np.random.Generator, unseen: bool) -> Question | None:
    clear = _indices(scene, lambda s: min(abs(s.x - SIZE / 2), abs(s.y - SIZE / 2)) > CLEAR)
    if not clear:
        return None
    i = int(rng.choice(clear))
    s = scene.stickers[i]
    place = PLACES[2 * (s.y > SIZE / 2) + (s.x > SIZE / 2)]
    return _question("position", ("where is the", (s.name, (i,)), "?"), place)


def _naming(scene: Scene, rng: np.random.Generator, unseen: bool) -> Question | None:
    place = _pick(rng, PLACES)
    right, low = place.endswith("right"), place.startswith("bottom")

    def inside(margin: float) -> Callable[[Sticker], bool]:
        return lambda s: (
            (s.x - SIZE / 2) * (1 if right else -1) > margin
            and (s.y - SIZE / 2) * (1 if low else -1) > margin
        )

    # Alone there, and no other so near the border that one could take it for a second.
    found = _indices(scene, inside(CLEAR))
    if len(found) != 1 or len(_indices(scene, inside(-CLEAR))) != 1:
        return None
    s = scene.stickers[found[0]]
    what, answer = ("shape", s.noun) if rng.random() < 0.5 else ("color", s.color)
    return _question("naming", (f"what {what} is", (place, found), "?"), answer)


def _relation(scene: Scene, rng: np.random.Generator, unseen: bool) -> Question | None:
    i, j = (int(v) for v in rng.choice(len(scene.stickers), 2, replace=False))
    a, b = scene.stickers[i], scene.stickers[j]
    side = _pick(rng, SIDES[:2]) if rng.random() < 0.7 else _pick(rng, SIDES[2:])
    gap = {"left": b.x - a.x, "right": a.x - b.x, "above": b.y - a.y, "below": a.y - b.y}[side]
    if abs(gap) < 8:
        return None
    if side in ("above", "below"):
        middle = f"{side} the"
    else:
        middle = _pick(rng, (f"{side} of the", f"to the {side} of the"))
    words = ("is the", (a.name, (i,)), middle, (b.name, (j,)), "?")
    kind = "relation" if side in ("left", "right") else "above/below"
    return _question(kind, words, "yes" if gap > 0 else "no")


def _count(scene: Scene, rng: np.random.Generator, unseen: bool) -> Question | None:
    style, present = rng.random(), rng.random() < 0.8
    chosen = scene.stickers[rng.integers(len(scene.stickers))]
    if style < 0.3:
        phrase, found = "things", _indices(scene, _is())
    elif style < 0.65:
        color = chosen.color if present else _pick(rng, COLOR_NAMES)
        phrase, found = f"{color} things", _indices(scene, _is(color=color))
    else:
        shapes = [s.noun for s in scene.stickers if s.noun != "digit"]
        noun = _pick(rng, shapes) if present and shapes else _pick(rng, SHAPES)
        phrase, found = PLURALS[noun], _indices(scene, _is(noun=noun))
    end = _pick(rng, ("?", "are there ?"))
    return _question("count", ("how many", (phrase, found), end), str(len(found)))


def _digit(scene: Scene, rng: np.random.Generator, unseen: bool) -> Question | None:
    found = _indices(scene, _is(noun="digit"))
    if not found and rng.random() < 0.8:
        return None
    word = _pick(rng, ("digit", "number"))
    answer = scene.stickers[found[0]].kind if found else "none"
    return _question("digit", ("what", (word, found), "is shown ?"), answer)


def _size(scene: Scene, rng: np.random.Generator, unseen: bool) -> Question | None:
    i = int(rng.integers(len(scene.stickers)))
    s = scene.stickers[i]
    return _question("size", ("is the", (s.name, (i,)), "big ?"), "yes" if s.big else "no")


def _list(scene: Scene, rng: np.random.Generator, unseen: bool) -> Question | None:
    ordered = sorted(scene.stickers, key=lambda s: s.x)
    words = " , ".join(f"{s.color} {s.kind}" for s in ordered)
    return _question("list", ("list all", ("things", _indices(scene, _is())), "."), words)


KINDS: dict[str, Callable[[Scene, np.random.Generator, bool], Question | None]] = {
    "existence": _exist,
    "color": _color,
    "shape": _shape,
    "position": _position,
    "naming": _naming,
    "relation": _relation,
    "count": _count,
    "digit": _digit,
    "size": _size,
    "list": _list,
}
