"""`vllm serve` as users run it, asked by the openai client."""

from __future__ import annotations

import os
import re
import signal
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

import otprune
from otprune_bench.served.server import Request, ask, data_url, serve

from .engines import IMAGES, image

pytestmark = pytest.mark.vllm

KEEP = 0.25
FULL = 64  # visual tokens of the tiny LLaVA's image
OPTIONS = (
    *("--dtype", "float32", "--enforce-eager", "--max-model-len", "1024", "--block-size", "32"),
    *("--max-num-seqs", "8", "--max-num-batched-tokens", "1024"),
)


@pytest.fixture(scope="module")
def server(checkpoint):
    """A running server; stopped by the last test, as users stop one."""
    path, _ = checkpoint("llava")
    environment = {k: v for k, v in os.environ.items() if k != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    with serve(path, {"keep": KEEP}, OPTIONS, environment) as made:
        yield made


def chat(server, image=None, **asked):
    url = None if image is None else data_url(image)
    return ask(server, Request(url, asked or None, new=8))


def test_the_prompt_shrinks_as_count_says(server):
    text = chat(server).prompt
    for asked in ({}, {"keep": 1.0}, {"keep": 0.5}, {"keep": 3}, {"keep": 0.1, "method": "grid"}):
        image = chat(server, IMAGES[0], **asked).prompt - text
        assert image == otprune.count(asked.get("keep", KEEP), FULL)
    for asked, keep in (
        ({"image_pruning_rate": 0.9}, 0.1),
        ({"video_pruning_rate": 0.5}, KEEP),
        ({"keep": 1.0, "video_retention_ratio": 0.5}, 1.0),
    ):
        assert chat(server, IMAGES[0], **asked).prompt - text == otprune.count(keep, FULL)


def metrics(server):
    """What the server exports of otprune, by name and labels."""
    with urllib.request.urlopen(str(server.client.base_url).replace("v1/", "metrics")) as got:
        lines = got.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("otprune:"))
    return {name.removeprefix("otprune:"): float(value) for name, value in pairs}


def test_metrics_count_every_prompt_and_every_selection(server):
    import openai

    chat(server, IMAGES[0])
    first = metrics(server)
    chat(server)
    chat(server, image(56, 56, 11), keep=0.1)
    chat(server, image(56, 56, 11), keep=0.1)  # from the cache: counted, not selected
    chat(server, image(56, 56, 11), keep=1.0)  # nothing to select
    chat(server, image(56, 56, 12), keep=0.5)
    with pytest.raises(openai.BadRequestError):
        chat(server, IMAGES[0], keep=7.5)
    grown = {name: value - first[name] for name, value in metrics(server).items()}
    assert grown['visual_tokens_before_total{modality="image"}'] == 4 * FULL
    assert grown['visual_tokens_after_total{modality="image"}'] == 6 + 6 + 64 + 32
    assert grown["selection_seconds_count"] == 2
    assert grown['selection_seconds_bucket{le="+Inf"}'] == 2
    assert 0 < grown["selection_seconds_sum"] < 60
    assert not any("video" in name for name in grown)


def test_concurrent_requests_are_answered_as_if_alone(server):
    asked = [(image, {"keep": keep}) for image in IMAGES for keep in (0.1, 0.5, 1.0)] * 2
    alone = [chat(server, image, **how) for image, how in asked]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda x: chat(server, x[0], **x[1]), asked))
    for one, other in zip(alone, together, strict=True):
        assert (one.text, one.prompt) == (other.text, other.prompt)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"keep": 7.5}, "keep=7.5 is more than everything"),
        ({"keep": -0.5}, "keep=-0.5 would leave no token"),
        ({"keep": "auto"}, "before any feature exists"),
        ({"kep": 0.5}, "expected only keep, image_pruning_rate"),
        ({"image_pruning_rate": 1}, "expected a share in [0, 1)"),
        ({"gamma": "big"}, "gamma is 'big'"),
        ({"method": "random", "seed": -1}, "seed=-1"),
        ({"mass": "token"}, "this engine was started without mass"),
    ],
)
def test_a_bad_request_gets_a_400_and_the_server_lives_on(server, asked, said):
    import openai

    with pytest.raises(openai.BadRequestError, match=re.escape(said)) as refused:
        chat(server, IMAGES[0], **asked)
    assert refused.value.status_code == 400
    assert chat(server, IMAGES[0]).answer == 8


def test_it_says_what_it_does_and_stops_cleanly(server):
    import psutil

    process = server.process
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 0
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    said = [line for line in server.lines if "LlavaForConditionalGeneration are pruned" in line]
    assert said
    assert all("keep=0.25" in line for line in said)
    assert len({line.split(")")[0] for line in said}) == len(said)  # once a process
