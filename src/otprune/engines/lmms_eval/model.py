"""lmms-eval's model class for any model that otprune prunes, asked through its chat template."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.protocol import ChatMessages
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor

from otprune.demo import MODEL_DIR
from otprune.engines.common.layer_stage import Rank
from otprune.engines.common.stage import stage_of
from otprune.engines.lmms_eval.settings import cut, decoding, layer_stage
from otprune.engines.transformers import prune
from otprune.engines.transformers.positions import Positions
from otprune.errors import OTPruneError, UnsupportedError
from otprune.keep import Keep
from otprune.measures.mass import Distance, Mass
from otprune.selectors import by_name


class OTPruneHF(lmms):  # type: ignore[misc]  # lmms-eval has no types
    """`lmms-eval --model otprune_hf --model_args pretrained=NAME,keep=0.098,method=otprune`.

    Questions go through the processor's own chat template, with images where the task has them.
    Decoding follows the task: greedy unless it asks for a temperature. Answers are cut at the
    task's stop strings, but not at lmms-eval's default, an empty line, which would cut answers of
    several paragraphs (its own model classes do the same).

    Tokens before and after pruning and the selector's time, each a mean per image, are in
    lmms-eval's results under `throughput`.

    Args:
        pretrained: a Hugging Face model or a local folder; None is the embedded model.
        keep: a ratio (0.098) or a number (56); 1.0 is the unpruned model.
        method: one of `otprune methods`, "recommended", or a class of your own,
            "package.module:Class", which is imported.
        merge: kept tokens become the mean of the tokens that they stand for.
        mass, alpha, distance: what is added to attention, as in `otprune.prune`.
        positions: "auto", "preserved" or "compact", as in `otprune.prune`.
        encoder_keep, encoder_after: a selection inside the vision encoder, `otprune.EncoderStage`:
            a ratio or number of tokens, and a share (0.5) or number (12) of layers before it.
        layer_rank, layer_after, layer_keep: a stage inside the language model,
            `otprune.LayerStage` with one cut, or with the rank's own.
        device: None takes a GPU if there is one.
        dtype: a dtype of torch by name; "auto" is as stored, on a CPU float32.
        batch_size: questions at a time.
        max_batch_size: ignored; lmms-eval always passes it.
        attn_implementation: as `from_pretrained` takes it.
        trust_remote_code: run Python code of the model's repository.
        settings: the method's own, such as gamma, rank, metric or seed.

    Raises:
        OTPruneError: an argument is wrong.
        UnsupportedError: a model that cannot be pruned, or more than one process.
    """

    is_simple = False  # asked with messages, not with strings that hold "<image>"

    def __init__(
        self,
        pretrained: str | None = None,
        keep: Keep = 1.0,
        method: str = "otprune",
        merge: bool | None = None,
        mass: Mass | None = None,
        alpha: float | None = None,
        distance: Distance | None = None,
        positions: Positions = "auto",
        encoder_keep: float | int | None = None,
        encoder_after: float | int | None = None,
        layer_rank: Rank | None = None,
        layer_after: float | int | None = None,
        layer_keep: float | int | None = None,
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__()
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UnsupportedError("otprune_hf runs in one process: start lmms-eval without launch")
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise OTPruneError(f"batch_size is {batch_size!r}: expected a whole number from 1 on")
        self.batch_size = int(batch_size)
        made = by_name(
            method,
            keep,
            merge=merge,
            mass=mass,
            alpha=alpha,
            distance=distance,
            own=True,
            **settings,
        )
        self._pruning: dict[str, Any] = {
            **made,
            "positions": positions,
            "encoder": stage_of(encoder_keep, encoder_after),
            "layers": layer_stage(layer_rank, layer_after, layer_keep),
        }

        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if dtype == "auto" and self.device.type == "cpu":
            dtype = "float32"
        place = str(MODEL_DIR) if pretrained is None else str(pretrained)
        model: Any = AutoModelForImageTextToText.from_pretrained(
            place,
            dtype=dtype,
            use_safetensors=True,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
        )
        self.model = model.to(self.device).eval()
        self.processor = AutoProcessor.from_pretrained(place, trust_remote_code=trust_remote_code)
        if not getattr(self.processor, "chat_template", None):
            raise UnsupportedError(f"the processor of {place} has no chat template to ask with")
        self.processor.tokenizer.padding_side = "left"
        with prune(self.model, **self._pruning):
            pass  # refuse a model that cannot be pruned before a task's data are fetched

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """The answers to `requests`, in their order."""
        answers: dict[int, GenerationResult] = {}
        pruned: list[tuple[float, ...]] = []  # of every image, and not its features
        start = time.perf_counter()
        with (
            prune(self.model, **self._pruning) as run,
            tqdm(total=len(requests), desc="otprune_hf") as bar,
        ):
            for batch in self._batches(requests):
                messages = [self._messages(requests[i]) for i in batch]
                answers |= zip(
                    batch, self._answer(messages, requests[batch[0]].args[2]), strict=True
                )
                pruned += [(one.before, one.after, one.seconds) for one in run.last or []]
                bar.update(len(batch))
        self._log(answers, pruned, time.perf_counter() - start)
        return [answers[i] for i in range(len(requests))]

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        """Refused: lmms-eval asks models with a chat template for generated answers only."""
        raise UnsupportedError("otprune_hf generates: use a task whose output is generate_until")

    def generate_until_multi_round(self, requests: list[Instance]) -> NoReturn:
        """Refused."""
        raise UnsupportedError("otprune_hf answers one question at a time: not in several rounds")

    def _batches(self, requests: list[Instance]) -> Iterator[list[int]]:
        """Indices of requests with equal generation settings, at most `batch_size` at a time."""
        alike: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            alike.setdefault(repr(request.args[2]), []).append(i)
        for indices in alike.values():
            for start in range(0, len(indices), self.batch_size):
                yield indices[start : start + self.batch_size]

    def _messages(self, request: Instance) -> list[dict[str, Any]]:
        _, doc_to_messages, _, doc_id, task, split = request.args
        messages = ChatMessages(messages=doc_to_messages(self.task_dict[task][split][doc_id]))
        _, videos, audios = messages.extract_media()
        if videos or audios:
            raise UnsupportedError(f"{task} asks about video or sound: otprune_hf takes images")
        converted: list[dict[str, Any]] = messages.to_hf_messages()
        return converted

    def _answer(
        self, messages: list[list[dict[str, Any]]], wanted: dict[str, Any]
    ) -> list[GenerationResult]:
        inputs = self.processor.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(self.device, dtype=self.model.dtype)
        sequences = self.model.generate(**inputs, **decoding(wanted))
        new = sequences[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.batch_decode(new, skip_special_tokens=True)
        padding = self.processor.tokenizer.pad_token_id
        return [
            GenerationResult(
                text=cut(text, wanted.get("until")),
                token_counts=TokenCounts(output_tokens=int((row != padding).sum())),
            )
            for text, row in zip(texts, new, strict=True)
        ]

    def _log(
        self,
        answers: dict[int, GenerationResult],
        pruned: list[tuple[float, ...]],
        seconds: float,
    ) -> None:
        tokens = sum(answer.token_counts.output_tokens for answer in answers.values())
        names = ("visual_tokens_before", "visual_tokens_after", "selector_seconds")
        means = (sum(column) / len(pruned) for column in zip(*pruned, strict=True))
        log_metrics(seconds, tokens, tokens / seconds, dict(zip(names, means, strict=False)))
