"""Several machines: Ray over two, data parallel over two, and one that lacks otprune."""

import json
import os
import shutil
from importlib.util import find_spec

import pytest

import otprune
from otprune.demo import MODEL_DIR

from .engines import Answer
from .machines import ray_on, two_machines, wait_for
from .on_machine import KEEP
from .test_hard_cases import agree_all

pytestmark = [
    pytest.mark.vllm_ray,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None or find_spec("ray") is None,
        reason="needs root, iproute2 and ray",
    ),
]
OVER_BOTH = {"tensor_parallel_size": 2, "distributed_executor_backend": "ray"}


def ask(machine, path, marks, options):
    words = (path, json.dumps(marks), json.dumps(options))
    return machine.run("tests.engines.vllm.on_machine", *words)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_tensor_parallel_over_ray(name, checkpoint, reference, tmp_path):
    path, marks = checkpoint(name)
    with two_machines(tmp_path) as (head, other), ray_on(head, other):
        status, said = ask(head, path, marks, OVER_BOTH)
    assert status == 0, said[-3000:]
    assert f"ip={other.address}" in said  # a rank ran there
    (line,) = (x for x in said.splitlines() if x.startswith("ANSWERS "))
    made = [
        Answer(**{**x, "likely": [{int(k): v for k, v in d.items()} for d in x["likely"]]})
        for x in json.loads(line.removeprefix("ANSWERS "))
    ]
    agree_all(name, made, marks, reference, KEEP)


def test_a_machine_of_ray_without_otprune(checkpoint, tmp_path):
    path, marks = checkpoint("llava")
    with two_machines(tmp_path, with_otprune=False) as (head, other), ray_on(head, other):
        status, said = ask(head, path, marks, OVER_BOTH)
    assert status != 0
    assert "ANSWERS" not in said
    assert "a worker has no otprune, or another version of it: every machine needs" in said


MAIN = "vllm.entrypoints.cli.main"
SERVE = (
    *("serve", MODEL_DIR, "--served-model-name", "demo", "--dtype", "float32", "--enforce-eager"),
    *("--block-size", "32", "--max-model-len", "512", "--max-num-batched-tokens", "512"),
    *("--max-num-seqs", "4", "--data-parallel-size", "2", "--data-parallel-size-local", "1"),
    *("--data-parallel-address", "10.77.0.1", "--data-parallel-rpc-port", "13345"),
    *("--hf-overrides", '{"otprune": {"keep": 0.1}}'),
)
FRONT = ("--host", "10.77.0.1", "--port", "8123", "--api-server-count", "1")
ENGINE = ("--headless", "--data-parallel-start-rank", "1")


def test_data_parallel_without_ray(tmp_path):
    with two_machines(tmp_path) as (first, second):
        second.start(MAIN, *SERVE, *ENGINE)
        wait_for("Application startup complete", first.start(MAIN, *SERVE, *FRONT))
        status, said = first.run("tests.engines.vllm.client", f"http://{first.address}:8123")
    assert status == 0, said
    made = json.loads(said.splitlines()[-1])
    assert dict(made["answers"]) == {"camera": "no", "cat": "yes", "coffee": "yes", "rocket": "no"}
    assert made["prompt_tokens"] == [6 + otprune.count(0.1, 144)]
    assert sorted(made["engines"]) == ["0", "1"]
    assert min(made["engines"].values()) > 0  # both have answered


def test_data_parallel_with_an_engine_without_otprune(tmp_path):
    with two_machines(tmp_path, with_otprune=False) as (first, second):
        second.start(MAIN, *SERVE, *ENGINE)
        status, said = first.run(MAIN, *SERVE, *FRONT)
    assert status != 0
    assert "the engine of data parallel rank 1 does not prune: every machine needs" in said
