"""Part `check`, end to end: two families on the device answer as they do on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from otprune.selectors import OTPrune
from otprune_bench.gpu.checks import tf32
from otprune_bench.gpu.plan import FLASH, SDPA, Plan
from otprune_bench.runs.cases import Case
from otprune_bench.runs.deadline import SkipError

KEEP = 0.1
QUESTIONS = ("What color is the star?", "Is there a red circle?")
# Largest difference of logits, relative to their largest: float32 summed in another order.
_LOGITS = 1e-3
# Settings of `prune` beside the selector.
WAYS: dict[str, dict[str, Any]] = {
    "pruned": {},
    "pruned, mass token": {"mass": "token"},
    "pruned, mass total": {"mass": "total"},
    "pruned, merged": {"merge": True},
}
UNPRUNED, STAGE = "unpruned", "pruned, encoder stage"


def cases(plan: Plan) -> Iterator[Case]:
    """The embedded model, a small Qwen2.5-VL, and mass under flash attention."""
    yield "check/model/embedded", partial(_beside_cpu, plan, _embedded)
    yield "check/model/small Qwen2.5-VL", partial(_beside_cpu, plan, _small_qwen)
    yield "check/model/mass in torch's flash kernel", partial(_features, plan)
    yield "check/model/mass under flash attention", partial(_flash, plan)


def library() -> Any:
    """The engine for transformers.

    Raises:
        SkipError: transformers is not installed, or cannot be imported.
    """
    try:
        from otprune.engines import transformers as found
    except Exception as cause:  # a torchvision that does not fit raises RuntimeError
        said = " ".join(str(cause).split())[:200]
        raise SkipError(f"transformers cannot be imported: {said}") from cause
    return found


def _embedded(device: str) -> tuple[Any, dict[str, Tensor]]:
    """The embedded model, and two questions about a sample image."""
    library()
    try:
        from PIL import Image

        from otprune.demo import SAMPLES_DIR, load

        model, processor = load()
        image = Image.open(SAMPLES_DIR / "coffee.jpg")
    except ImportError as cause:
        raise SkipError(f"the embedded model's processor: {cause}") from cause
    model, processor = cast(Any, model), cast(Any, processor)
    prompts = [
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
        )
        for text in QUESTIONS
    ]
    inputs = processor(
        images=[image] * len(prompts),
        text=prompts,
        padding=True,
        add_special_tokens=not prompts[0].startswith(processor.tokenizer.bos_token),
        return_tensors="pt",
    )
    return model.to(device), dict(inputs)


def _small_qwen(device: str) -> tuple[Any, dict[str, Tensor]]:
    """A random Qwen2.5-VL, made on the device, and two prompts of one image each."""
    library()
    from otprune_bench.timing.shapes import TINY_QWEN

    model = TINY_QWEN.build(torch.float32, device)
    return model, TINY_QWEN.inputs(0, torch.float32, batch=2)


def _beside_cpu(plan: Plan, make: Callable[[str], tuple[Any, dict[str, Tensor]]]) -> dict[str, Any]:
    """Logits of a call without pruning and with it, and which tokens were kept."""
    found = []
    for device in ("cpu", plan.device or "cpu"):
        model, inputs = make(device)
        there = {name: x.to(device) for name, x in inputs.items()}
        with tf32(False), torch.no_grad():
            found.append({name: _call(model, there, way) for name, way in _ways().items()})
        del model
    shown, agrees = {}, True
    for name in found[0]:
        (logits, kept), (theirs, also) = (one[name] for one in found)
        same = kept == also
        difference = float((logits - theirs).abs().max()) if logits.shape == theirs.shape else None
        answers = logits[:, -1].argmax(dim=-1).equal(theirs[:, -1].argmax(dim=-1))
        relative = None if difference is None else difference / float(logits.abs().max())
        shown[name] = {"same tokens kept": same, "difference": relative, "same answers": answers}
        agrees &= same and answers and relative is not None and relative <= _LOGITS
    return {"agrees": agrees, "ways": shown}


def _ways() -> dict[str, dict[str, Any] | None]:
    from otprune.engines.common.stage import EncoderStage

    return {UNPRUNED: None, **WAYS, STAGE: {"encoder": EncoderStage(0.5)}}


def _call(
    model: Any, inputs: dict[str, Tensor], way: dict[str, Any] | None
) -> tuple[Tensor, list[list[int]]]:
    if way is None:
        return model(**inputs).logits.float().cpu(), []
    with library().prune(model, OTPrune(KEEP), **way) as run:
        logits = model(**inputs).logits.float().cpu()
    return logits, [item.indices.tolist() for item in run.last]


def _features(plan: Plan) -> dict[str, Any]:
    """Masses as head features in torch's own flash kernel, beside the same bias as a mask."""
    library()
    from otprune.engines.common.key_features import FEATURES
    from otprune.engines.transformers.bias import as_features

    shown, agrees = {}, True
    types = (torch.bfloat16, torch.float16) if plan.device == "cuda" else (torch.float32,)
    for dtype in types:
        g = torch.Generator().manual_seed(plan.seed)
        query, key, values = (torch.randn(2, 4, 96, 64, generator=g) for _ in range(3))
        query, key, values = (x.to(plan.device, dtype) for x in (query, key, values))
        bias = torch.rand(2, 96, generator=g).mul(3).to(plan.device)
        scaling = 64**-0.5
        wanted = F.scaled_dot_product_attention(
            query.double().cpu(),
            key.double().cpu(),
            values.double().cpu(),
            attn_mask=bias.double().cpu()[:, None, None],
            scale=scaling,
        )
        more_query, more_key = as_features(query, key, bias, scaling)
        wide = F.pad(values, (0, FEATURES))
        try:
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                found = F.scaled_dot_product_attention(more_query, more_key, wide, scale=scaling)
        except RuntimeError as cause:
            raise SkipError(
                f"torch's flash kernel: {' '.join(str(cause).split())[:200]}"
            ) from cause
        masked = F.scaled_dot_product_attention(
            query, key, values, attn_mask=bias.to(dtype)[:, None, None], scale=scaling
        )
        error, usual = (
            float((x[..., :64].double().cpu() - wanted).abs().max()) for x in (found, masked)
        )
        name = str(dtype).removeprefix("torch.")
        shown[name] = {"error with features": error, "error with a mask": usual}
        agrees &= error <= 2 * usual + 1e-5
    return {"agrees": agrees, "dtypes": shown}


def _flash(plan: Plan) -> dict[str, Any]:
    """A whole model in bfloat16 with mass: flash attention and sdpa, beside float32."""
    flash_attention(plan)
    library()
    from otprune_bench.timing.shapes import TINY_QWEN

    inputs = TINY_QWEN.inputs(0, torch.float32, batch=2)
    there = {name: x.to(plan.device) for name, x in inputs.items()}
    made: dict[str, Tensor] = {}
    for name, dtype in (("exact", torch.float32), (SDPA, None), (FLASH, None)):
        model = TINY_QWEN.build(dtype or torch.bfloat16, plan.device or "cpu")
        # The language model alone: the bias is there.
        text = model.get_decoder()
        text.set_attn_implementation(SDPA if name == "exact" else name)
        given = {**there, "pixel_values": there["pixel_values"].to(model.dtype)}
        with tf32(False), torch.no_grad():
            made[name], _ = _call(model, given, {"mass": "token"})
        del model
    scale = float(made["exact"].abs().max())
    errors = {
        name: float((made[name] - made["exact"]).abs().max()) / scale for name in (SDPA, FLASH)
    }
    return {"agrees": errors[FLASH] <= 3 * errors[SDPA] + 1e-3, "errors": errors}


def flash_attention(plan: Plan) -> None:
    """Raise SkipError unless the package flash_attn is there, and a device for it."""
    if plan.device != "cuda":
        raise SkipError("flash attention needs a CUDA device")
    try:
        import flash_attn  # type: ignore[import-not-found]  # noqa: F401
    except ImportError as cause:
        raise SkipError(f"the package flash_attn cannot be imported: {cause}") from cause
