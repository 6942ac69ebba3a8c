"""Finding a model: in a folder, on the hub, or in the hub's cache if the hub is unreachable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from otprune.errors import OTPruneError

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
HUB_TIMEOUT = 10.0  # seconds


@dataclass(frozen=True)
class Source:
    """A model that was found.

    Attributes:
        name: as the user wrote it.
        place: the argument of `from_pretrained`.
        local: whether nothing may be downloaded.
    """

    name: str
    place: str
    local: bool


def find(name: str, weights: bool = True) -> Source:
    """Find a model by folder or by name; nothing is loaded or downloaded yet.

    Args:
        weights: whether it must have weights; a forecast (`otprune.plan`) needs none.

    Raises:
        OTPruneError: there is none, the hub is unreachable, or it has only pickled weights.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _in_folder(name, folder, weights)
    if folder.exists():
        raise OTPruneError(f"--model {name} is a file: give the folder that holds config.json")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise OTPruneError(f"--model {name}: no such folder")
    return _on_hub(name, weights)


def _in_folder(name: str, folder: Path, weights: bool) -> Source:
    files = [path.name for path in folder.iterdir()]
    if "config.json" not in files:
        raise OTPruneError(f"--model {name}: this folder holds no model (no config.json in it)")
    if weights:
        _check_weights(name, files)
    return Source(name, str(folder), local=True)


def _on_hub(name: str, weights: bool) -> Source:
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        # One request with a short timeout; loading would retry for half a minute.
        info = HfApi().model_info(name, timeout=HUB_TIMEOUT)
    except HFValidationError as cause:
        raise OTPruneError(
            f"--model {name} is neither a folder nor a name on the hub (ORGANISATION/NAME)"
        ) from cause
    except RepositoryNotFoundError as cause:
        raise OTPruneError(
            f"--model {name}: the hub has no such model (or it is private: `hf auth login` first)"
        ) from cause
    except Exception as cause:  # no network, offline mode, a proxy's or the hub's own failure
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return Source(name, name, local=True)
        raise OTPruneError(
            f"--model {name}: not a folder, not in the cache, and the hub cannot be reached; "
            f"run `hf download {name} --local-dir DIR` where it can, then use --model DIR"
        ) from cause
    if weights:
        _check_weights(name, [file.rfilename for file in info.siblings or []])
    return Source(name, name, local=False)


def _check_weights(name: str, files: list[str]) -> None:
    if any(file.endswith(".safetensors") for file in files):
        return
    pickled = [file for file in files if file.endswith(PICKLED)]
    if pickled:
        raise OTPruneError(
            f"--model {name} has pickled weights ({pickled[0]}), which can run code when they are "
            "read: otprune reads safetensors only, convert them first"
        )
    raise OTPruneError(f"--model {name} has no weights (no .safetensors file)")
