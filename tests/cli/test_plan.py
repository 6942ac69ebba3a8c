"""`otprune plan` as a user calls it."""

import json

import pytest


def test_a_table_and_what_it_says(run):
    result = run("plan", "--image", "640x480", "--images", "2", "--text", "50", "--keep", "0.2")
    assert (result.status, result.err) == (0, "")
    assert "2 images of 640x480, 50 tokens of text, an answer of 100; float32" in result.out
    assert "otprune (keep=0.2" in result.out
    row = next(x for x in result.out.splitlines() if x.startswith("visual tokens"))
    assert row.split()[2:] == ["288", "58", "20.1%"]
    assert "however few tokens stay" in " ".join(result.out.split())


def test_json_budget_and_machine(run):
    words = ("--cache-budget", "8MiB", "--requests", "8", "--flops", "1e12", "--bandwidth", "1e11")
    result = run("plan", "--image", "640x480", *words, "--method", "recommended", "--json")
    plan = json.loads(result.out)
    assert 0.1 < plan["keep"] < 1
    assert 8 * plan["after"]["cache_bytes"] <= plan["cache_budget"] == 8 * 2**20
    assert plan["method"] == "simplex"
    assert plan["rates"] == {"flops": 1e12, "bandwidth": 1e11}
    assert plan["after"]["first_token_seconds"] < plan["before"]["first_token_seconds"]


def test_a_share_of_the_operations_and_a_stage_inside_the_encoder(run):
    words = ("--time-budget", "0.6x", "--encoder-keep", "0.35", "--set", "gamma=0.01", "--json")
    plan = json.loads(run("plan", *words).out)
    assert plan["speed_up"] >= 1 / 0.6
    assert plan["after"]["encoder"] < plan["before"]["encoder"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--image", "1920"), "--image 1920: expected WIDTHxHEIGHT"),
        (("--image", "5x5", "--image", "6x6", "--images", "2"), "--images 2 multiplies one"),
        (("--image", "0x5"), "0x5 has no pixels"),
        (("--keep", "auto"), "--keep auto cannot be planned"),
        (("--keep", "0.1", "--cache-budget", "1MiB"), "a budget finds the keep"),
        (("--cache-budget", "lots"), "lots: expected an amount of memory"),
        (("--cache-budget", "1e400"), "1e400: expected an amount of memory"),
        (("--requests", "2"), "requests=2 belongs to a cache_budget"),
        (("--flops", "0", "--bandwidth", "1e12"), "flops=0.0: expected a number above 0"),
        (("--time-budget", "half"), "--time-budget half: expected a share"),
        (("--time-budget", "1s"), "add --flops and --bandwidth"),
        (("--time-budget", "0.3x"), "no keep is fast enough"),
        (("--flops", "1e12"), "give both of them"),
        (("--frames", "4"), "knows no video"),
        (("--trust-remote-code",), "--trust-remote-code belongs to MODEL"),
        (("--encoder-after", "2"), "--encoder-after belongs to --encoder-keep"),
        (("./nowhere",), "error: ./nowhere: no such folder"),
        (("nobody/nothing",), "error: nobody/nothing: not a folder, not in the cache"),
    ],
)
def test_one_line_for_every_mistake(refused, words, said):
    assert said in refused("plan", *words)
