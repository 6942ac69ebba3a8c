"""What transformers itself gets wrong with pictures before some release: refused, not passed on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import transformers

from otprune.engines.transformers.prompt import setting
from otprune.errors import UnsupportedError

if TYPE_CHECKING:
    from otprune.engines.transformers.inputs import Pruned

OLDEST = (5, 18)  # hands encoder outputs over as `mm_encoder_outputs`
WHOLE = (5, 23)  # repeats them row by row for beams, and cuts them for chunked prefill


def installed() -> tuple[int, int]:
    """Major and minor number of the installed transformers."""
    found = re.match(r"(\d+)\.(\d+)", transformers.__version__)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def check_whole(
    model: Any, arguments: dict[str, Any], outputs: dict[str, Any], items: list[Pruned]
) -> None:
    """Raise UnsupportedError where an old generate() would answer from the wrong pictures.

    Args:
        model: the model.
        arguments: the caller's, of generate().
        outputs: `mm_encoder_outputs` of the pruned call.
        items: its pictures.
    """
    if installed() >= WHOLE:
        return
    need = f"transformers {transformers.__version__}; 5.23 is the first that does not"
    if setting(model, arguments, "prefill_chunk_size"):
        raise UnsupportedError(
            f"prefill_chunk_size: pictures are lost between chunks in {need}: leave it out"
        )
    names = ("num_beams", "num_return_sequences")
    if max(setting(model, arguments, name) or 1 for name in names) == 1:
        return
    for modality, output in outputs.items():
        entries = getattr(output, "pooler_output", None)
        rows = {item.row for item in items if item.modality == modality}
        if entries is not None and len(entries) > len(rows):
            raise UnsupportedError(
                f"num_beams or num_return_sequences: several {modality}s in a row of the batch are "
                f"mixed up in {need}: ask for one sequence"
            )
