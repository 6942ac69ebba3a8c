"""What a pruned engine must answer: Hugging Face transformers with the same tokens dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

import otprune
from otprune.selectors import Selector
from otprune.selectors.results import Reduction

from .engines import ANSWER, IMAGES, VIDEOS, Marks, Question


class Reference:
    """A checkpoint in transformers; `Reference(path, marks)(question, selector)` answers."""

    def __init__(self, path: Any, marks: Marks) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self._model = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)
        self._model.eval()
        self._model.generation_config.eos_token_id = None
        self._processor = AutoProcessor.from_pretrained(path)
        self._marks = marks

    def ids(self, text: str) -> list[int]:
        """Token ids of a text."""
        ids: list[int] = self._processor.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def __call__(
        self,
        question: Question,
        selector: Selector,
        positions: str,
        merge: bool = False,
        **more: Any,
    ) -> tuple[int, list[int], torch.Tensor]:
        """Prompt length, greedy ids, and log-probabilities `(ANSWER, V)`.

        more: mass, alpha, encoder and text.
        """
        asked: dict[str, Any] = {}
        if question.images:
            asked["images"] = [IMAGES[i] for i in question.images]
        if question.videos:
            videos, metadata = zip(*(VIDEOS[i] for i in question.videos), strict=True)
            asked |= {"videos": list(videos), "do_sample_frames": False}
            asked["video_metadata"] = [[dict(x) for x in metadata]]
        inputs = self._processor(text=[question.prompt(self._marks)], return_tensors="pt", **asked)
        whole = inputs["input_ids"].shape[1]
        if self._model.config.model_type == "qwen3_vl" and question.videos:
            selector = PerFrame.of(selector, inputs)
        with (
            torch.no_grad(),
            otprune.prune(self._model, selector, positions, merge, **more) as run,
        ):
            out = self._model.generate(
                **inputs,
                max_new_tokens=ANSWER,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        dropped = sum(item.before - item.after for item in run.last)
        likely = torch.cat(out.logits).float().log_softmax(-1)
        return whole - dropped, out.sequences[0, -ANSWER:].tolist(), likely


@dataclass(frozen=True)
class PerFrame:
    """A selector that takes a video frame by frame, told by its number of tokens.

    In Qwen3-VL's prompt there is text between frames, and vLLM must know how many tokens each
    keeps; otprune's engine in transformers takes the video as one set.
    """

    selector: Selector
    frames: dict[int, int]

    @classmethod
    def of(cls, selector: Selector, inputs: Any) -> PerFrame:
        """For the videos of a prompt, whose images must have other numbers of tokens."""
        frames = {int(grid.prod()) // 4: int(grid[0]) for grid in inputs["video_grid_thw"]}
        images = {int(grid.prod()) // 4 for grid in inputs.get("image_grid_thw", ())}
        assert not images & set(frames), "an image would be taken for a video"
        return cls(selector, frames)

    def reduce(self, tokens: torch.Tensor, merge: bool) -> Reduction:
        """As `Selector.reduce`."""
        m, d = tokens.shape[-2:]
        frames = self.frames.get(m, 1)
        made = self.selector.reduce(tokens.reshape(-1, m // frames, d), merge=merge)
        first = torch.arange(frames).repeat(len(made.indices) // frames) * (m // frames)
        batch = tokens.shape[:-2]
        return Reduction(
            (made.indices + first[:, None]).reshape(*batch, -1),
            made.masses.reshape(*batch, -1) / frames,
            made.features.reshape(*batch, -1, d),
        )
