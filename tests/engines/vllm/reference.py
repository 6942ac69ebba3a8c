"""What a pruned engine must answer: Hugging Face transformers with the same tokens dropped."""

from __future__ import annotations

from typing import Any

import torch

import otprune

from .engines import ANSWER, IMAGES, Question


class Reference:
    """A checkpoint in transformers; `Reference(path, placeholder)(question, selector)` answers."""

    def __init__(self, path: Any, placeholder: str) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self._model = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)
        self._model.eval()
        self._model.generation_config.eos_token_id = None
        self._processor = AutoProcessor.from_pretrained(path)
        self._placeholder = placeholder

    def __call__(
        self, question: Question, selector: Any, positions: str, merge: bool = False
    ) -> tuple[int, list[int], torch.Tensor]:
        """Prompt length, greedy ids, and log-probabilities `(ANSWER, V)`."""
        images = [IMAGES[i] for i in question.images] or None
        inputs = self._processor(
            text=[question.text.replace("{}", self._placeholder)],
            images=images,
            return_tensors="pt",
        )
        whole = inputs["input_ids"].shape[1]
        with torch.no_grad(), otprune.prune(self._model, selector, positions, merge) as run:
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
