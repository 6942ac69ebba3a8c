"""The soak in small, with a worker killed in its midst; and what it takes to be right."""

from __future__ import annotations

import json

import pytest

from otprune_bench.runs.cases import FILE
from otprune_bench.served.model import qwen
from otprune_bench.soak import counts, plan
from otprune_bench.soak.media import Image, Video
from otprune_bench.soak.model import SIZE, TOWER
from otprune_bench.soak.plan import QWEN
from otprune_bench.soak.run import run

pytestmark = pytest.mark.vllm


# Of one pixel, long, small, and larger than the largest.
SIZES = [(1, 1), (1, 150), (150, 1), (17, 611), (40, 40), (300, 700), (2400, 900), (57, 1200)]


def test_counts_from_sizes_are_those_of_the_processor(environment):
    _, processor = qwen(SIZE, TOWER, plan.MOST)
    for i, (width, height) in enumerate(SIZES):
        image = Image(i, width, height)
        made = processor.image_processor(images=[image.pixels()])
        assert counts.tokens(QWEN, image) == int(made["image_grid_thw"].prod()) // 4
        assert counts.tokens(QWEN, image) <= plan.MOST
    video = Video(0, 6, 80, 60, 4.0)
    made = processor.video_processor(videos=[video.pixels()], do_sample_frames=False)
    assert counts.tokens(QWEN, video) == int(made["video_grid_thw"].prod()) // 4


def test_mixed_requests_a_killed_worker_and_a_stop(environment, tmp_path):
    run(tmp_path, plan.QUICK)
    records = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()[1:]]
    found = {record["case"]: record["result"] for record in records}
    blocks = [found[plan.key(QWEN, block)] for block in plan.QUICK.blocks(QWEN)]
    for block in blocks:
        assert block["wrong counts"] == block["unexpected"] == []
        assert {one["verdict"] for one in block["answers"]} <= {"equal", "near tie"}
        assert block["rest"]["tracebacks"] == 0
    kinds = {kind for block in blocks for kind in block["kinds"]}
    assert kinds == set(plan.KINDS)
    assert sum(len(block["answers"]) for block in blocks) > 10
    assert len({block["server"] for block in blocks}) == 2, "started again after the kill"
    killed = found[plan.killed_key(QWEN, "Worker")]
    assert sum(killed["told"].values()) == killed["under way"]
    assert not any("nothing came" in message for message in killed["told"])
    stop = found[plan.stop_key(QWEN)]
    assert stop["code"] == 0
    assert stop["alive"] == killed["alive"] == []
    assert stop["left kinds"] in ([], ["Unix sockets"]), "of which vLLM leaves the files"
    assert "0 wrong answers" in (tmp_path / "report.md").read_text()
