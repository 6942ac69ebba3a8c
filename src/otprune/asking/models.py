"""Loading a model and its processor, and asking it questions, with transformers."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from PIL.Image import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, GenerationMixin

from otprune import demo
from otprune.asking.sources import Source, find
from otprune.engines.transformers import support
from otprune.errors import MissingDependencyError, OTPruneError, UnsupportedError, first_line
from otprune.installed import broken_torchvision, torchvision_line

EMBEDDED = "the embedded model"


@dataclass(frozen=True)
class Loaded:
    """A model ready to be asked.

    Attributes:
        name: its name in reports.
        embedded: whether it is otprune's embedded model.
    """

    name: str
    model: Any
    processor: Any
    embedded: bool


def quiet() -> None:
    """Silence the warnings and progress bars of transformers and the hub."""
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name in ("huggingface_hub", "httpx", "httpcore", "PIL"):
        logging.getLogger(name).setLevel(logging.ERROR)


def load(
    name: str | None,
    tokens: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
) -> Loaded:
    """Load the embedded model (None), or a model from a folder or the hub, onto its device.

    `tokens` is that of `otprune.demo.load`, for the embedded model alone.

    Weights are read from safetensors only. Code in a model's repository runs only if trusted.

    Raises:
        OTPruneError: there is no such model, it is incomplete or not readable, or its code is not
            trusted.
        UnsupportedError: otprune cannot prune the model.
    """
    quiet()
    place = _device(device)
    number = _dtype(dtype, place)
    if name is None:
        model, processor = demo.load() if tokens is None else demo.load(tokens=tokens)
        found = Loaded(EMBEDDED, model, processor, embedded=True)
    else:
        found = _load(find(name), number, trust_remote_code)
    if number != "auto":
        found.model.to(number)
    found.model.to(place).eval()
    return found


def prompt(loaded: Loaded, images: Image | Sequence[Image], question: str) -> dict[str, Any]:
    """The arguments of `model(**inputs)` for one question about one image, or several.

    The text comes from the processor's chat template. Without a template it is an "<image>" for
    each image, each on a line, and the question.

    Raises:
        OTPruneError: the processor refuses the images or the question.
    """
    processor, model = loaded.processor, loaded.model
    images = [images] if isinstance(images, Image) else list(images)
    try:
        if getattr(processor, "chat_template", None):
            parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
            parts.append({"type": "text", "text": question})
            inputs = processor.apply_chat_template(
                [{"role": "user", "content": parts}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        else:
            mark = getattr(processor, "image_token", None) or "<image>"
            text = f"{mark}\n" * len(images) + question
            inputs = processor(images=images, text=text, return_tensors="pt")
        return dict(inputs.to(model.device, dtype=model.dtype))
    except Exception as cause:  # processors of many families, and of models' own code
        raise OTPruneError(f"the processor of {loaded.name} failed: {first_line(cause)}") from cause


def answer_of(loaded: Loaded, sequences: torch.Tensor, prompt_length: int) -> str:
    """The text of `generate`'s first sequence, after the prompt."""
    text = loaded.processor.decode(sequences[0, prompt_length:], skip_special_tokens=True)
    return str(text).strip()


def described(name: str | None, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """The config and the processor of a model, without its weights.

    Args:
        name: as for `load`; a folder without weights will do.

    Raises:
        OTPruneError, UnsupportedError: as for `load`, of what comes before the weights.
    """
    quiet()
    if name is None:
        source = Source(EMBEDDED, str(demo.MODEL_DIR), local=True)
    else:
        try:
            source = find(name, weights=False)
        except OTPruneError as error:  # here the model is an argument, and no option
            raise type(error)(str(error).replace("--model ", "")) from error
    with _reading(source.name):
        return _described(source, _common(source, trust_remote_code))


def _load(source: Source, dtype: Any, trust_remote_code: bool) -> Loaded:
    common = _common(source, trust_remote_code)
    name = source.name
    with _reading(name):
        _, processor = _described(source, common)
        model = AutoModelForImageTextToText.from_pretrained(
            source.place, use_safetensors=True, dtype=dtype, **common
        )
    able, why = support(model)
    if not able:
        raise UnsupportedError(why)
    return Loaded(name, model, processor, embedded=False)


def _common(source: Source, trust_remote_code: bool) -> dict[str, Any]:
    return {"trust_remote_code": trust_remote_code, "local_files_only": source.local}


def _described(source: Source, common: dict[str, Any]) -> tuple[Any, Any]:
    config = AutoConfig.from_pretrained(source.place, **common)
    _check_kind(source.name, config)
    processor = AutoProcessor.from_pretrained(source.place, **common)
    if not hasattr(processor, "image_processor"):
        raise UnsupportedError(f"{source.name} has no processor for images")
    return config, processor


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turns what reading a model's files raises into errors of one line."""
    try:
        yield
    except OTPruneError:
        raise
    except ImportError as cause:
        told = broken_torchvision(cause) or _needed(name, cause)
        raise MissingDependencyError(told) from cause
    except Exception as cause:  # from reading files that may be wrong in any way
        if "trust_remote_code" in str(cause):
            raise OTPruneError(
                f"{name} brings its own code, which is not run unless you trust its authors and "
                "add --trust-remote-code"
            ) from cause
        raise OTPruneError(f"cannot load {name}: {first_line(cause)}") from cause


def _check_kind(name: str, config: Any) -> None:
    """Refuse a model that cannot be pruned by its config, before its weights are fetched."""
    known: Any = AutoModelForImageTextToText._model_mapping
    if type(config) in known:
        cls = known[type(config)]
        able, why = support(cls)
        if not able:
            raise UnsupportedError(why)
        if not issubclass(cls, GenerationMixin):
            raise UnsupportedError(f"{name}: {cls.__name__} acts and does not answer in text")
    elif "AutoModelForImageTextToText" not in (getattr(config, "auto_map", None) or {}):
        raise UnsupportedError(
            f"{name} is a model of type {config.model_type}, which transformers does not list "
            "among those that answer about images (AutoModelForImageTextToText)"
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except Exception as cause:  # torch raises another error for every device
        raise OTPruneError(f"--device {name}: {first_line(cause)}") from cause
    return device


def _dtype(name: str, device: torch.device) -> Any:
    """Half precision is slow on most CPUs."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    return getattr(torch, name)


def _needed(name: str, cause: ImportError) -> str:
    """An error that names the missing package, if the cause says which it is."""
    found = re.search(r"requires the (\w+) library|[Pp]ackage `?(\w+)", str(cause))
    package = ((found[1] or found[2]) if found else cause.name or "").lower()
    if not package:
        return f"cannot load {name}: {first_line(cause)}"
    line = torchvision_line() if package == "torchvision" else f"pip install {package}"
    return f"{name} needs {package}, which is not installed: {line}"
