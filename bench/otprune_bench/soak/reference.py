"""What the server must answer: Hugging Face transformers with the same tokens dropped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import otprune
from otprune.engines.common.stage import stage_of
from otprune.engines.vllm.settings import SHARES
from otprune.selectors import by_name
from otprune_bench.soak.client import Outcome
from otprune_bench.soak.counts import FRAMES, grid, keep_of, messages
from otprune_bench.soak.media import Image, Video
from otprune_bench.soak.plan import QWEN
from otprune_bench.soak.requests import Ask

# Two log-probabilities in float32 by two programs, each summing in an order of its own, differ by
# less than this; and where two tokens are so near to each other, either may be the answer.
NEAR = 1e-3


@dataclass(frozen=True)
class Verdict:
    """How an answer compares with the reference.

    Attributes:
        verdict: "equal" (all tokens are), "near tie" (the first other token is one that the
            reference gives a log-probability within `NEAR` of its own), or "other".
        gap: largest difference of a log-probability, up to the first other token.
        margin: log-probability of the reference's token less that of the other; 0 if equal.
        step: of the first other token; None if equal.
    """

    verdict: str
    gap: float
    margin: float = 0.0
    step: int | None = None


class Reference:
    """A model in transformers; `Reference(path, model)(ask, outcome)` is a `Verdict`."""

    def __init__(self, path: Path, model: str) -> None:
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self._name = model
        made = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)
        self._model: Any = made.eval()
        self._model.generation_config.eos_token_id = None
        self._model.generation_config.suppress_tokens = None
        self.processor: Any = AutoProcessor.from_pretrained(path)

    def __call__(self, ask: Ask, outcome: Outcome) -> Verdict:
        import torch

        pruning = otprune.prune(self._model, **arguments(self._name, ask))
        with torch.no_grad(), pruning:
            out = self._model.generate(
                **self._inputs(ask),
                max_new_tokens=ask.new,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        likely = torch.cat(out.logits).float().log_softmax(-1)
        return compare(out.sequences[0, -ask.new :].tolist(), likely.tolist(), outcome)

    def _inputs(self, ask: Ask) -> Any:
        text = self.processor.tokenizer.apply_chat_template(
            messages(ask), tokenize=False, add_generation_prompt=True
        )
        media = ask.media()
        given: dict[str, Any] = {}
        if images := [x.pixels() for x in media if isinstance(x, Image)]:
            given["images"] = images
        if videos := [x for x in media if isinstance(x, Video)]:
            given["videos"] = [x.pixels() for x in videos]
            given["do_sample_frames"] = False
            given["video_metadata"] = [[_metadata(x) for x in videos]]
        return self.processor(text=[text], return_tensors="pt", add_special_tokens=False, **given)


def arguments(model: str, ask: Ask) -> dict[str, Any]:
    """Arguments of `otprune.prune` that mean what a request asks of vLLM.

    There "recommended" has no distance term. No request has both images and videos.
    """
    rest: dict[str, Any] = {"method": "otprune"} | (ask.otprune or {})
    keep = keep_of(rest, any(isinstance(one, Video) for one in ask.media()))
    stage = stage_of(rest.pop("encoder_keep", None), rest.pop("encoder_after", None))
    for name in ("keep", *SHARES):
        rest.pop(name, None)
    unweighed = rest["method"] == "recommended" and rest.pop("mass", None) == "none"
    made: dict[str, Any] = {**by_name(**rest, keep=keep), "distance": False, "encoder": stage}
    if unweighed:
        made |= {"mass": "none", "alpha": 1.0}
    return made | {"positions": "preserved" if model == QWEN else "compact"}


def comparable(model: str, ask: Ask) -> bool:
    """Whether vLLM and transformers give unpruned prompts the same positions.

    Behind a video whose steps of time are more than its frames' rows and columns they differ:
    transformers goes on behind the larger side of a frame, vLLM behind the last step.
    """
    for one in ask.media():
        if isinstance(one, Video) and model == QWEN:
            last = (one.frames // FRAMES - 1) * FRAMES / one.fps * 4  # 4 steps a second
            if last >= max(grid(one.height, one.width)):
                return False
    return True


def compare(ids: list[int], likely: list[list[float]], outcome: Outcome) -> Verdict:
    """The verdict on an answer.

    Args:
        ids: the reference's tokens.
        likely: its log-probabilities of every token at each step.
        outcome: the server's tokens, with their log-probabilities.
    """
    if len(outcome.ids) != len(ids) or len(outcome.likely) != len(ids):
        return Verdict("other", 0.0, step=min(len(outcome.ids), len(ids)))
    gap = 0.0
    for step, (wanted, got, said) in enumerate(zip(ids, outcome.ids, outcome.likely, strict=True)):
        gap = max(gap, abs(likely[step][got] - said))
        if wanted != got:
            margin = likely[step][wanted] - likely[step][got]
            near = margin <= NEAR and gap <= NEAR
            return Verdict("near tie" if near else "other", gap, margin, step)
    return Verdict("equal" if gap <= NEAR else "other", gap)


def _metadata(video: Video) -> dict[str, Any]:
    return {
        "fps": video.fps,
        "duration": video.frames / video.fps,
        "total_num_frames": video.frames,
        "frames_indices": list(range(video.frames)),
        "video_backend": "opencv",
    }
