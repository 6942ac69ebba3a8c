"""Try base models, heads and policies, small and random; write what held to docs/support.json.

    python -m tools.support_heads [part of a class name ...]

The entry is `heads`, by class; tools/support_sweep.py writes the rest. The calls are those of
tools/support_cases.py. Of each is checked:

- a base model gives what the base model inside the class that generates gives, which
  tools/support_sweep.py compares with the unpruned prompt; with keep=1.0 what it gives unpruned;
- a head gives what its last layer makes of the pruned base model's hidden states.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel

from otprune import OTPrune, Settings, UnsupportedError, prune
from otprune.engines.transformers import support
from otprune.engines.transformers.families import family
from otprune.engines.transformers.heads import base_of, generative_of, head_of, is_policy
from tools import support_sweep as sweep
from tools.small_models import small
from tools.support_cases import Case, NotRunError, cases, video_cases
from tools.support_table import RECORD

PIXELS = {"pixel_values", "pixel_values_videos", "pixel_values_images", "image_patches"}


def classes() -> list[str]:
    """Classes that do not generate, and see images and text."""
    found = []
    for name in sorted(dir(transformers)):
        try:
            cls = getattr(transformers, name)
        except (ImportError, AttributeError):  # what needs more than is installed
            continue
        if not (isinstance(cls, type) and issubclass(cls, PreTrainedModel)):
            continue
        takes = set(inspect.signature(cls.forward).parameters)
        sees = "input_ids" in takes and PIXELS & takes
        if not issubclass(cls, GenerationMixin) and (sees or _wraps(cls)) and cls.config_class:
            found.append(cls.__name__)
    return sorted(set(found))


def _wraps(cls: Any) -> bool:
    """Whether a head has a base model that sees images."""
    if head_of(cls) is None or not cls.config_class:
        return False
    base = base_of(cls)
    return base is not cls and "mm_encoder_outputs" in inspect.signature(base.forward).parameters


def check(model: Any, case: Case, whole: Any) -> None:
    """What held of one call, else AssertionError; NotRunError where it is not answered unpruned."""
    try:
        plain = _said(model(**case.inputs))
    except Exception as error:
        raise NotRunError("unpruned", repr(error)) from error
    with prune(model, OTPrune(keep=1.0)):
        assert torch.equal(_said(model(**case.inputs)), plain), "keep=1.0: other output"
    schemes = ["compact"] if family(base_of(model).config).positions else ["compact", "preserved"]
    for scheme in schemes:
        settings = Settings(sweep.SELECTOR, scheme)
        with prune(model, settings) as run:
            found = _said(model(**case.inputs))
        assert run.last, "nothing was found"
        assert all(item.after < item.before for item in run.last), "nothing was dropped"
        wanted = _hidden(whole, case.inputs, settings)
        if model is not whole.base_model:
            wanted = _headed(model, wanted, run)
        assert torch.allclose(found, wanted, atol=1e-5), f"{scheme}: other output"


def _said(out: Any) -> Tensor:
    names = ("embeddings", "logits", "last_hidden_state")
    return next(out[name] for name in names if name in out)


def _hidden(whole: Any, inputs: dict[str, Any], settings: Settings) -> Tensor:
    """What the base model of a pruned model gives."""
    seen: list[Tensor] = []
    hook = whole.base_model.register_forward_hook(lambda m, a, out: seen.append(out[0]))
    try:
        with prune(whole, settings):
            whole(**inputs)
    finally:
        hook.remove()
    return seen[0]


def _headed(model: Any, hidden: Tensor, run: Any) -> Tensor:
    """What a generic head makes of hidden states `(B, n, d)`."""
    logits: Tensor = model.score(hidden)
    if "Token" in type(model).__name__:
        return logits
    last = (run.columns >= 0) & (run.input_ids != 0)
    places = torch.arange(last.shape[1]).expand_as(last)
    return logits[torch.arange(len(last)), places.masked_fill(~last, -1).amax(dim=1)]


def outcome(name: str) -> dict[str, Any]:
    """What became of one class: "ran", "not run" or "wrong", as `support_sweep.outcome` says."""
    held: list[str] = []
    sweep.start_alarm()
    try:
        with torch.no_grad():
            model, whole = _built(getattr(transformers, name))
            for case in _calls(whole):
                try:
                    check(model, case, whole)
                except (NotRunError, UnsupportedError) as error:
                    if case.name == "one":
                        why = "made small, it does not run unpruned"
                        raise NotRunError(why, repr(error)) from error
                    continue
                except AssertionError as error:
                    raise AssertionError(f"{case.name}: {error}") from error
                held.append(case.name)
    except NotRunError as error:
        return {"outcome": "not run", "why": error.why, "detail": error.detail}
    except sweep.TooLongError as error:
        if not held:
            return {"outcome": "not run", "why": str(error)}
    except Exception as error:
        return {"outcome": "wrong", "why": repr(error)}
    finally:
        sweep.stop_alarm()
    return {"outcome": "ran", "calls": held}


def _built(cls: Any) -> tuple[Any, Any]:
    """A small model of a class, and one that generates with the same base model."""
    whole = sweep.build(generative_of(cls).__name__)
    if head_of(cls) is None:
        if type(whole.base_model) is not cls:
            raise NotRunError("it is not the base model of what generates")
        return whole.base_model, whole
    try:
        model: Any = small(cls)
    except Exception as error:
        raise NotRunError("its default config does not shrink", repr(error)) from error
    model.base_model.load_state_dict(whole.base_model.state_dict())
    model.config.get_text_config().pad_token_id = 0
    return model, whole


def _calls(whole: Any) -> Iterator[Case]:
    yield from (case for case in cases(whole) if not case.touching)
    if "video" in whole.input_modalities and hasattr(whole.base_model, "get_video_features"):
        try:
            yield from (case for case in video_cases(whole) if not case.touching)
        except NotRunError:
            return


def main(parts: list[str]) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    record = json.loads(RECORD.read_text())
    found = record.get("heads", {}) if parts else {}
    for name in classes():
        cls = getattr(transformers, name)
        if parts and not any(part.lower() in name.lower() for part in parts):
            continue
        able, why = support(cls)
        if not able:
            found[name] = {"outcome": "refused", "why": why.removeprefix(name).lstrip(": ")}
        elif is_policy(cls) or getattr(head_of(cls), "base", None) is not None:
            found[name] = {"outcome": "not run", "why": "in tests/families only"}
        else:
            found[name] = outcome(name)
        told = found[name]
        print(f"{name:44s} {told['outcome']:8s} {told.get('why') or told['calls']}", flush=True)
    record["heads"] = dict(sorted(found.items()))
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    main(sys.argv[1:])
