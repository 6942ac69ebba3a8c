"""The watch bench measures what it says."""

import json
from dataclasses import replace

from otprune_bench.watch.cases import frames
from otprune_bench.watch.plan import EMBEDDED, GRID, OTPRUNE, QUICK, SESSION
from otprune_bench.watch.report import ratio
from otprune_bench.watch.run import run

TINY = replace(QUICK, frames=12, every=4, clip=3, kept=4, memory=150)


def test_frames_are_those_of_the_seed(tmp_path):
    first, again = (list(frames(TINY, tmp_path, 3)) for _ in range(2))
    assert [x.tobytes() for x in first] == [x.tobytes() for x in again]
    assert first[0].tobytes() != first[1].tobytes()


def test_a_run(tmp_path):
    run(tmp_path, TINY, tmp_path / "no photographs")
    found = json.loads((tmp_path / "results.json").read_text())["results"]
    points = found["long session"]["points"]
    assert [p["frames"] for p in points] == [4, 8, 12]
    assert all(p["remembered"] <= 150 for p in points)
    one = found[EMBEDDED]
    assert one["tokens"] == 12
    assert set(one["times"]) == {SESSION, GRID, OTPRUNE}
    times = one["times"]
    assert ratio(one, GRID) == times[SESSION][0] / times[GRID][0]
    text = (tmp_path / "report.md").read_text()
    assert "| the embedded model | 3 | 12 |" in text
    assert (tmp_path / "long.png").exists()
