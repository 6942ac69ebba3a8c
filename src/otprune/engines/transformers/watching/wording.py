"""What stands around frames and questions: token ids from a processor and its chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from PIL.Image import Image
from torch import Tensor

from otprune.engines.transformers.watching.kinds import Kind
from otprune.errors import FrameError, OTPruneError, UnsupportedError, first_line

_QUESTION = "Which word comes first?"  # of the renderings that only show where frames stand
_ANSWER = "Zebra."


class Wording(Protocol):
    """The token ids around frames and questions.

    tokenizer: decodes answers: `decode(ids, skip_special_tokens=True)`.
    """

    tokenizer: Any

    def opening(self) -> list[int]:
        """What comes before the first frame."""

    def frame(self, images: Sequence[Image], times: Sequence[float]) -> dict[str, Tensor]:
        """One frame, or a chunk of frames: arguments of the model, `input_ids` `(1, n)` included.

        Args:
            images: one frame, or several that the model encodes together.
            times: seconds since the start, of each.
        """

    def question(self, text: str) -> list[int]:
        """A question behind the frames, up to where the answer begins."""

    def reopening(self, text: str) -> list[int]:
        """What follows the answer to a question, up to where the next frame begins."""


class ChatWording:
    """The wording of a processor's chat template; without one, frames and a question in plain.

    A conversation with several frames is rendered, and cut at the frames. What the template puts
    around each frame stays with it.

    Args:
        processor: of the model.
        kind: how the model's family gets frames.

    Raises:
        UnsupportedError: the template does not show where frames stand, or counts them.
    """

    def __init__(self, processor: Any, kind: Kind) -> None:
        self._processor, self._kind = processor, kind
        self.tokenizer: Any = getattr(processor, "tokenizer", None)
        token = getattr(processor, f"{kind.modality}_token", None)
        if self.tokenizer is None or token is None:
            raise UnsupportedError(
                f"{type(processor).__name__} has no tokenizer, or no {kind.modality}_token that "
                "stands for a frame: pass an object with the methods of "
                "otprune.engines.transformers.watching.wording.Wording"
            )
        self._token = str(token)
        before, first, second, behind = self._parts([self._turn(_QUESTION, frames=3)])
        if _QUESTION not in behind:
            raise UnsupportedError(
                f"the chat template of {type(processor).__name__} does not put a question behind "
                "the frames: pass an object with the methods of "
                "otprune.engines.transformers.watching.wording.Wording"
            )
        if first != second:
            raise UnsupportedError(
                f"the chat template of {type(processor).__name__} counts the images of a prompt "
                f"({first!r}, {second!r}), which a stream without end cannot: pass an object with "
                "the methods of otprune.engines.transformers.watching.wording.Wording"
            )
        # Around each frame; but where the frames of a turn are one video, around the video.
        around = ("", "") if kind.clock is not None else _around(first, before, behind)
        self._open, self._close = around

    def opening(self) -> list[int]:
        text = self._parts([self._turn(_QUESTION, frames=1)])[0].removesuffix(self._open)
        ids = self._ids(text + self._token)[: -len(self._ids(self._token))]
        # Many templates leave the first token to the tokenizer.
        first = list(self.tokenizer(text + self._token)["input_ids"])[:1]
        bos = getattr(self.tokenizer, "bos_token_id", None)
        return first + ids if first == [bos] and ids[:1] != first else ids

    def frame(self, images: Sequence[Image], times: Sequence[float]) -> dict[str, Tensor]:
        text = self._token if self._kind.stamped else f"{self._open}{self._token}{self._close}"
        images, times = list(images), list(times)
        common: dict[str, Any] = {
            "text": [text],
            "add_special_tokens": False,
            "return_tensors": "pt",
            **self._kind.options,
        }
        if self._kind.modality == "image":
            given: dict[str, Any] = {"images": images}
        else:
            missing = -len(images) % self._kind.least
            images, times = images + images[-1:] * missing, times + times[-1:] * missing
            metadata = {
                "total_num_frames": len(images),
                "fps": 1.0,
                "frames_indices": times,
            }
            given = {
                "videos": [images],
                "video_metadata": [metadata],
                "do_sample_frames": False,
            }
        try:
            return dict(self._processor(**common, **given))
        except Exception as cause:  # processors of many families, and of models' own code
            raise FrameError(
                f"{type(self._processor).__name__} refuses a frame of {images[0].size}: "
                f"{first_line(cause)}"
            ) from cause

    def question(self, text: str) -> list[int]:
        if self._token in text:
            raise OTPruneError(
                f"a question contains {self._token}, which stands for a frame: leave it out; what "
                "was seen is in front of every question"
            )
        return self._behind(self._parts([self._turn(text, frames=1)])[1])

    def reopening(self, text: str) -> list[int]:
        turns = [
            self._turn(text, frames=1),
            {"role": "assistant", "content": [{"type": "text", "text": _ANSWER}]},
            self._turn(_QUESTION, frames=1),
        ]
        between = self._parts(turns)[1]
        _, found, after = between.rpartition(_ANSWER)
        if not found:
            raise UnsupportedError(
                f"the chat template of {type(self._processor).__name__} does not show where an "
                "answer ends, so the turn cannot be remembered: ask without remember=True"
            )
        # The answer stands in front, as in the conversation, since it may change how text is cut.
        marked = self._ids(self._token + _ANSWER)
        return self._ids(self._token + _ANSWER + after.removesuffix(self._open))[len(marked) :]

    # -- private -----------------------------------------------------------------------------------

    def _turn(self, text: str, frames: int) -> dict[str, Any]:
        content: list[dict[str, str]] = [{"type": self._kind.modality}] * frames
        return {"role": "user", "content": [*content, {"type": "text", "text": text}]}

    def _parts(self, turns: list[dict[str, Any]]) -> list[str]:
        """A conversation in front of, between and behind its frames."""
        if getattr(self._processor, "chat_template", None):
            whole = self._processor.apply_chat_template(
                turns, add_generation_prompt=turns[-1]["role"] == "user", tokenize=False
            )
        else:
            bos = getattr(self.tokenizer, "bos_token", None) or ""
            whole = bos + "\n".join(self._plain(turn) for turn in turns)
        parts = str(whole).split(self._token)
        frames = sum(p["type"] == self._kind.modality for turn in turns for p in turn["content"])
        if len(parts) != frames + 1:
            raise UnsupportedError(
                f"the chat template of {type(self._processor).__name__} shows {len(parts) - 1} "
                f"{self._token} for {frames} frames, so where they stand is not known: pass an "
                "object with the methods of otprune.engines.transformers.watching.wording.Wording"
            )
        return parts

    def _plain(self, turn: dict[str, Any]) -> str:
        parts = turn["content"]
        return "".join(p["text"] if p["type"] == "text" else f"{self._token}\n" for p in parts)

    def _behind(self, text: str) -> list[int]:
        """Ids of text that follows a frame and what closes it."""
        before = self._ids(self._token + self._close)
        if not text.startswith(self._close):
            return self._ids(self._token + text)[len(self._ids(self._token)) :]
        ids = self._ids(self._token + text)
        if ids[: len(before)] != before:  # what closes a frame is one token with what follows
            return self._ids(text.removeprefix(self._close))
        return ids[len(before) :]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _around(between: str, before: str, behind: str) -> tuple[str, str]:
    """What opens and what closes a frame, from the text between two of them.

    Args:
        between, before, behind: text between two frames, before the first, behind the last.
    """
    for cut in range(len(between), -1, -1):
        close, opens = between[:cut], between[cut:]
        if before.endswith(opens) and behind.startswith(close):
            return opens, close
    return "", between


def check_question(text: object) -> str:
    """Raise OTPruneError unless a question is a text that is not empty."""
    if not isinstance(text, str) or not text.strip():
        raise OTPruneError(f"a question is {text!r}: expected a text that is not empty")
    return text
