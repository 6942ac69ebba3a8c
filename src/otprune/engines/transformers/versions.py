"""Supported transformers versions, and calls that older versions answer wrongly."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, get_args

import transformers

from otprune.engines.transformers.prompt import setting
from otprune.errors import OTPruneError, UnsupportedError

if TYPE_CHECKING:
    from otprune.engines.transformers.inputs import Pruned

OLDEST = (5, 18)  # the first with `mm_encoder_outputs`
NEWEST = (5, 24)  # the newest tested
# The first that repeats encoder outputs by sequence for beams, and splits them for chunked prefill.
ROWWISE = (5, 23)


def installed() -> tuple[int, int]:
    """Major and minor version of the installed transformers."""
    found = re.match(r"(\d+)\.(\d+)", transformers.__version__)
    return (int(found[1]), int(found[2])) if found else (0, 0)


Untested = Literal["refuse", "prune"]


def check_tested(untested: object) -> None:
    """Refuse a transformers that is newer than the tested versions, unless told to prune.

    A minor release has renamed things that pruning depends on before. Answers were then wrong
    without an error.

    Raises:
        UnsupportedError: transformers is too new.
        OTPruneError: `untested` is neither "refuse" nor "prune".
    """
    if untested not in get_args(Untested):
        raise OTPruneError(f"untested_transformers={untested!r}: expected 'refuse' or 'prune'")
    if installed() > NEWEST and untested == "refuse":
        oldest, newest = (".".join(map(str, version)) for version in (OLDEST, NEWEST))
        raise UnsupportedError(
            f"transformers {transformers.__version__} is newer than what otprune was tested with "
            f"({oldest} to {newest}), and a wrong answer would show no error: install "
            f"'transformers<{NEWEST[0]}.{NEWEST[1] + 1}', or insist with "
            "untested_transformers='prune'"
        )


def check_several_images(
    model: Any, arguments: dict[str, Any], outputs: dict[str, Any], items: list[Pruned]
) -> None:
    """Raise UnsupportedError if an old generate() would use the wrong images.

    Args:
        model: the model.
        arguments: the caller's arguments of generate().
        outputs: `mm_encoder_outputs` of the pruned call.
        items: its images.
    """
    if installed() >= ROWWISE:
        return
    need = f"transformers {transformers.__version__}; 5.23 is the first that does not"
    if setting(model, arguments, "prefill_chunk_size"):
        raise UnsupportedError(
            f"prefill_chunk_size: images are lost between chunks in {need}: leave it out"
        )
    names = ("num_beams", "num_return_sequences")
    if max(setting(model, arguments, name) or 1 for name in names) == 1:
        return
    for modality, output in outputs.items():
        entries = getattr(output, "pooler_output", None)
        rows = {item.row for item in items if item.modality == modality}
        if entries is not None and len(entries) > len(rows):
            raise UnsupportedError(
                f"num_beams or num_return_sequences: several {modality}s in a prompt of a batch "
                f"are mixed up in {need}: ask for one sequence"
            )
