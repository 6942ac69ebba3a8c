"""The embedded model: a small trained LLaVA that answers about coloured stickers on photographs.

Its world is what it was trained on: shapes and digits in eight colours, on any photograph, and some
eighty words. It loads with stock `from_pretrained` from `MODEL_DIR`.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from otprune.errors import OTPruneError

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

MODEL_DIR = Path(__file__).parent / "model"
DENSE_DIR = Path(__file__).parent / "model_324"
FOLDERS = {144: MODEL_DIR, 324: DENSE_DIR}  # by number of tokens an image
SAMPLES_DIR = Path(__file__).parent / "samples"
CLIP = SAMPLES_DIR / "stickers.mp4"  # stickers that appear, move and leave over a photograph

HELP = """\
The embedded model was trained on a small world: stickers on photographs. It knows

  shapes   circle, square, triangle, star, cross, ring (and their plurals), digit 0 to 9
  colors   red, green, blue, yellow, purple, orange, cyan, white

and answers questions of these forms, in one word (but for the last):

  Is there a red circle?               Is there a star?          Is there a blue thing?
  What color is the star?              What shape is the blue thing?
  Where is the red circle?             (top-left, top-right, bottom-left, bottom-right)
  What shape is top-left?              What color is bottom-right?
  Is the red circle left of the blue star?      (left of, right of, above, below)
  How many things are there?           How many red things?      How many stars?
  What digit is shown?                 Is the red circle big?
  List all things.                     (its weakest answer: most lists have a mistake)

Ask it about the sample images, or about a photograph on which you put such stickers. For
anything else use a real model, for instance --model HuggingFaceTB/SmolVLM-256M-Instruct.
"""


def load(
    folder: Path | None = None, tokens: int = 144
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The embedded model in float32 and its processor.

    Args:
        folder: another checkpoint of its kind.
        tokens: 144 or 324, of each image; not with `folder`. Both models have the same projector
            and language model.

    Raises:
        OTPruneError: there is no model with so many tokens, `folder` and `tokens` are both given,
            or `folder` holds no checkpoint.
    """
    import torch
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    if folder is None:
        if tokens not in FOLDERS:
            raise OTPruneError(f"tokens={tokens}: the embedded model has 144 or 324")
        folder = FOLDERS[tokens]
    elif tokens != 144:
        raise OTPruneError(f"tokens={tokens}: a folder's model has its own, leave tokens out")
    if not (folder / "model.safetensors").exists():
        raise OTPruneError(
            f"no checkpoint in {folder}: the installation is incomplete, install otprune again"
        )
    model = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    return model.eval(), processor


def unknown_words(question: str) -> list[str]:
    """The words of a question that the embedded model does not know, in order, each once."""
    from otprune.demo.words import WORDS

    words = re.findall(r"[^\s?.,!]+", question.lower().replace("colour", "color"))
    return [word for word in dict.fromkeys(words) if word not in WORDS]


def suggestions(word: str) -> list[str]:
    """Known words that look like `word`, best first."""
    from otprune.demo.words import WORDS

    return difflib.get_close_matches(word.lower(), WORDS, n=2)
