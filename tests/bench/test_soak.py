"""`otprune bench soak` without a server: its requests, what they must give, its report."""

import os
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from PIL import Image as Pictures

import otprune
from otprune import MissingDependencyError, OTPruneError
from otprune.demo import MODEL_DIR, SAMPLES_DIR
from otprune.engines.vllm.settings import engine_settings, request_settings
from otprune_bench.served.model import IMAGE, VIDEO, byte_tokenizer
from otprune_bench.served.model import QWEN as QWEN_NAMES
from otprune_bench.soak import counts, plan, report, run
from otprune_bench.soak.cases import Soak, ended, judged
from otprune_bench.soak.client import Outcome, body
from otprune_bench.soak.media import BROKEN, Broken, Image, Video
from otprune_bench.soak.plan import EMBEDDED, ENGINE, QWEN
from otprune_bench.soak.processes import held, memory, tree
from otprune_bench.soak.reference import Reference, Verdict, comparable, compare
from otprune_bench.soak.requests import Ask, Requests


@pytest.fixture(scope="module")
def many():
    """The first requests of each model."""
    return {
        model: [Requests(plan.FULL, model)[i] for i in range(400)] for model in (QWEN, EMBEDDED)
    }


class Told:
    """A reference that gives an answer's verdict by its first token."""

    processor = SimpleNamespace(tokenizer=byte_tokenizer(QWEN_NAMES, IMAGE, VIDEO))

    def __call__(self, ask, outcome):
        return Verdict("equal" if outcome.ids[0] == 1 else "other", 0.0)


def test_without_vllm_nothing_is_sent_and_nothing_written(tmp_path, monkeypatch):
    monkeypatch.setattr("otprune_bench.served.run.find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match="vLLM is not installed here"):
        run.run(tmp_path / "out", plan.QUICK)
    assert not (tmp_path / "out").exists()


def test_the_full_run_is_ten_thousand_requests_in_order():
    keys = [key for key, _ in Soak(plan.FULL).cases()]
    blocks = [block for model in plan.FULL.requests for block in plan.FULL.blocks(model)]
    assert sum(len(block) for block in blocks) == 10_000
    assert len(set(keys)) == len(keys) == len(blocks) + 4
    assert keys[0] == f"{QWEN}/requests 0 to 249"
    assert keys[-1] == f"{EMBEDDED}/stop"
    first, worker, core = keys[33:36]
    assert first == f"{EMBEDDED}/requests 0 to 249"
    assert (worker, core) == (f"{EMBEDDED}/Worker killed", f"{EMBEDDED}/EngineCore killed")


def test_a_request_follows_from_its_number_alone(many):
    again = Requests(plan.FULL, QWEN)
    assert [again[i] for i in (399, 0, 250)] == [many[QWEN][i] for i in (399, 0, 250)]
    assert many[QWEN] != many[EMBEDDED]


@pytest.mark.parametrize("model", [QWEN, EMBEDDED])
def test_every_kind_occurs_and_does_what_it_says(many, model):
    asks = many[model]
    kinds = Counter(ask.kind for ask in asks)
    assert set(kinds) == set(plan.KINDS) - (set(plan.ONLY_QWEN) if model == EMBEDDED else set())
    for ask in asks:
        assert (ask.said is not None) == (ask.kind in plan.REFUSED)
        assert not ask.sampled or ask.said is None
        assert bool(ask.media()) == (ask.kind not in ("text", "broken image") or bool(ask.media()))
        if ask.kind in plan.ABORTED:
            assert ask.stream
    seen = {one for ask in asks if ask.kind in plan.FRESH for one in ask.media()}
    repeated = [ask for ask in asks if ask.kind in plan.REPEATED]
    assert sum(set(ask.media()) <= seen for ask in repeated) > len(repeated) / 2
    asked = {str(ask.otprune) for ask in asks if ask.said is None}
    assert len(asked) > 80


def test_settings_that_are_sent_are_taken_and_wrong_ones_refused(many):
    engine = engine_settings(ENGINE)
    for ask in many[QWEN]:
        if ask.otprune is not None and ask.kind != "wrong settings":
            request_settings(engine, ask.otprune)
    for asked, said in plan.WRONG:
        if asked == {"backend": "triton"}:
            continue  # tests interpret its kernels on a CPU, so here it runs
        with pytest.raises(OTPruneError) as refused:
            request_settings(engine, asked)
        assert said in str(refused.value)


def test_a_prompt_is_its_text_and_what_is_kept_of_each_image():
    images = Image(0, 300, 200), Image(1, 100, 500)
    ask = Ask("several images", (("user", (*images, "what?")),), {"keep": 0.1})
    text = "user: <|vision_start|>.<|vision_end|><|vision_start|>.<|vision_end|>what?assistant:"
    for name in ("<|vision_start|>", "<|vision_end|>"):
        text = text.replace(name, ".")
    kept = sum(otprune.count(0.1, counts.tokens(QWEN, one)) for one in images)
    tokenizer = Told.processor.tokenizer
    assert counts.prompt_tokens(QWEN, tokenizer, ask) == len(text) - 2 + kept
    assert counts.tokens(EMBEDDED, images[0]) == 144


@pytest.mark.parametrize(
    ("asked", "image", "video"),
    [
        ({}, 0.5, 0.5),
        ({"keep": 7}, 7, 7),
        ({"image_pruning_rate": 0.9}, 0.1, 0.5),
        ({"video_pruning_rate": 0.7}, 0.5, 0.3),
        ({"keep": 0.25, "video_retention_ratio": 0.1}, 0.25, 0.1),
    ],
)
def test_how_much_is_kept_by_whichever_name(asked, image, video):
    engine = request_settings(engine_settings(ENGINE), asked)
    assert (counts.keep_of(asked, False), counts.keep_of(asked, True)) == (image, video)
    assert (engine.selector_of("image").keep, engine.selector_of("video").keep) == (image, video)


def test_no_more_is_kept_than_a_selection_inside_the_encoder_left():
    image = Image(0, 300, 200)
    for asked, kept in (({"keep": 0.9}, 72), ({"keep": 0.1}, 14), ({"keep": 1.0}, 144)):
        assert counts.kept_tokens(EMBEDDED, {**asked, "encoder_keep": 0.5}, image) == kept
    video = Video(0, 10, 84, 84, 4.0)  # five frames of nine tokens
    assert counts.kept_tokens(QWEN, {"encoder_keep": 0.5}, video) == 5 * otprune.count(0.5, 9)


def test_media_are_what_they_say():
    for form, mode in (("png", "RGB"), ("jpeg", "L"), ("webp", "RGBA")):
        image = Image(3, 33, 21, form, mode)
        pixels = image.pixels()
        assert (pixels.size, pixels.mode) == ((33, 21), "RGB")
        assert image.url().startswith(f"data:image/{form};base64,")
    video = Video(4, 6, 40, 30, 8.0)
    assert video.pixels().shape == (6, 30, 40, 3)
    assert video.url().count(",") == 6
    assert set(BROKEN) >= {"empty", "no image"}
    assert Broken("empty").url() == "data:image/png;base64,"


def test_what_is_sent_is_what_vllm_takes():
    video = Video(0, 4, 40, 30, 8.0)
    ask = Ask("video", (("user", (video, "what?")),), {"keep": 3}, new=4, stream=True, sampled=True)
    sent = body(ask)
    (content,) = (message["content"] for message in sent["messages"])
    assert [part["type"] for part in content] == ["video_url", "text"]
    assert sent["mm_processor_kwargs"] == {"otprune": {"keep": 3}}
    assert sent["media_io_kwargs"] == {"video": {"fps": 8.0}}
    assert sent["logprobs"]
    assert "mm_processor_kwargs" not in body(Ask("text", (("user", ("hi",)),)))


@pytest.mark.parametrize(
    ("kind", "said", "outcome", "how"),
    [
        ("image", None, Outcome(200, ids=[1, 2]), "answered"),
        ("image", None, Outcome(200, ids=[1]), None),
        ("image", None, Outcome(500, "Internal server error"), None),
        ("image", None, Outcome(0, "ReadTimeout: nothing came"), None),
        ("wrong settings", "rank is 0", Outcome(400, "rank is 0: expected"), "refused"),
        ("wrong settings", "rank is 0", Outcome(400, "another"), None),
        ("wrong settings", "rank is 0", Outcome(200, ids=[1, 2]), None),
        ("broken image", "", Outcome(500, "Failed to load image"), None),
        ("left before a token", None, Outcome(0), "left"),
        ("left after a token", None, Outcome(200, ids=[1], first=0.1), "left"),
        ("left after a token", None, Outcome(500, "Internal server error"), None),
    ],
)
def test_how_a_request_ended(kind, said, outcome, how):
    assert ended(Ask(kind, (), new=2, said=said), outcome) == how


def test_one_token_as_likely_is_told_from_a_wrong_one():
    likely = [[-0.5, -1.0, -3.0], [-0.7, -0.7005, -2.0]]
    same = Outcome(ids=[0, 0], likely=[-0.5, -0.7])
    assert compare([0, 0], likely, same).verdict == "equal"
    tie = compare([0, 0], likely, Outcome(ids=[0, 1], likely=[-0.5, -0.7]))
    assert (tie.verdict, tie.step) == ("near tie", 1)
    assert compare([0, 0], likely, Outcome(ids=[0, 2], likely=[-0.5, -2.0])).verdict == "other"
    assert compare([0, 0], likely, Outcome(ids=[1, 0], likely=[-1.0, -0.7])).verdict == "other"
    assert compare([0, 0], likely, Outcome(ids=[0, 0], likely=[-0.5, -0.69])).verdict == "other"
    assert compare([0, 0], likely, Outcome(ids=[0], likely=[-0.5])).verdict == "other"


def test_videos_with_long_steps_of_time_are_not_compared():
    for fps, ok in ((16.0, True), (2.0, False)):
        ask = Ask("video", (("user", (Video(0, 10, 120, 60, fps), "what?")),))
        assert comparable(QWEN, ask) == ok


def test_a_block_is_judged_against_the_reference():
    turns = (("user", (Image(0, 300, 200), "what?")),)
    ask = Ask("image", turns, {"keep": 0.25}, new=4, sampled=True)
    ids, prompt = [1, 2, 3, 4], counts.prompt_tokens(QWEN, Told.processor.tokenizer, ask)
    outcomes = [
        Outcome(200, prompt=prompt, ids=ids, whole=0.2),
        Outcome(200, prompt=prompt + 1, ids=ids, whole=0.4, again=True),
        Outcome(200, prompt=prompt, ids=[5, 5, 5, 5], whole=0.4),
        Outcome(500, "Internal server error"),
    ]
    made = judged(QWEN, Told(), range(7, 11), [ask] * 4, outcomes)
    numbers = {name: made["kinds"]["image"][name] for name in plan.NUMBERS}
    assert numbers == {"sent": 4, "answered": 3, "refused": 0, "left": 0, "again": 1}
    assert made["kinds"]["image"]["whole"] == [200, 400, 400]
    assert made["wrong counts"] == [{"number": 8, "got": prompt + 1, "wanted": prompt}]
    assert [one["number"] for one in made["unexpected"]] == [10]
    assert [one["verdict"] for one in made["answers"]] == ["equal", "equal", "other"]


def test_processes_below_this_one_are_seen_until_they_end():
    wait = [sys.executable, "-c", "input()"]
    child = subprocess.Popen(wait, stdin=subprocess.PIPE)
    found = tree(os.getpid())
    assert found[os.getpid()] == "API server"
    assert child.pid in found
    rss, pss = memory(os.getpid())
    assert rss >= pss > 1
    child.communicate(b"\n")
    assert child.pid not in tree(os.getpid())
    assert memory(child.pid) is None


def test_what_a_process_has_open_is_seen(tmp_path):
    with (tmp_path / "open").open("w"), socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "socket"))
        found = held(os.getpid(), tmp_path / "none")
        assert {str(tmp_path / "open"), str(tmp_path / "socket")} <= found
        assert not [x for x in held(os.getpid(), tmp_path) if x.startswith(str(tmp_path))]
    assert str(tmp_path / "open") not in held(os.getpid(), tmp_path / "none")


def result(block, server, growth):
    """A block's result, made up."""
    kinds = {"image": dict.fromkeys(plan.NUMBERS, 0) | {"sent": len(block), "answered": len(block)}}
    kinds["image"] |= {"first": [100] * len(block), "whole": [200] * len(block)}
    rest = {"time": 0.0, "done": block.stop, "memory": {"Worker": [100 + growth * block.stop, 80]}}
    return {
        "seconds": 10.0,
        "server": server,
        "kinds": kinds,
        "wrong counts": [],
        "unexpected": [],
        "refusals": {"wrong settings: rank is N | N": 3},
        "answers": [{"number": block.start, **asdict(Verdict("equal", 1e-5))}],
        "rest": {
            "counters": {
                "num_preemptions": 4.0,
                "prefix_cache_queries": 100.0,
                "prefix_cache_hits": 25.0,
                "mm_cache_queries": 10.0,
                "mm_cache_hits": 5.0,
            },
            "tracebacks": 0,
            "cache drift": 2,
        },
        "memory": {"samples": [{**rest, "done": block.start}], "rest": rest},
    }


STOP = {
    "seconds": 2.0,
    "code": 0,
    "processes": ["API server", "Worker"],
    "alive": [],
    "paths": 3,
    "left": ["/tmp/x"],
    "left kinds": ["Unix sockets"],
    "under way": 16,
    "answered": 12,
    "told": {"ReadTimeout": 1},
}
KILLED = STOP | {"until told": 0.8, "answered": 0, "told": {"EngineCore encountered an issue": 16}}


def test_the_report_says_what_was_found(tmp_path):
    blocks = plan.QUICK.blocks(QWEN)
    found = {plan.key(QWEN, block): result(block, 1, growth=0.01) for block in blocks}
    found[plan.killed_key(QWEN, "Worker")] = KILLED
    found[plan.stop_key(QWEN)] = STOP
    text = report.write(plan.QUICK, found)
    assert "**150 requests** in 0 minutes, 5.0 a second" in text
    assert "**0 wrong counts** among 150 answers" in text
    assert "**0 wrong answers** among 3" in text
    assert "3 are equal token by token, of which 0 have log-probabilities" in text
    assert "| image | 150 | 150 | 0 | 0 | 0 | 100, 95%: 100 | 200, 95%: 200 |" in text
    assert "25% of the prompts' tokens came from the prefix cache, 50% of the images" in text
    assert "4 preemptions" in text
    assert "0 of its 2 processes were left" in text
    assert "12 of these requests were answered whole. Errors: 1 x ReadTimeout." in text
    assert "SIGKILL to the Worker with 16 requests under way: the last client heard" in text
    assert "Errors: 16 x EngineCore encountered an issue." in text
    assert "Not as expected" not in text
    report.draw(tmp_path, plan.QUICK, found)
    assert (tmp_path / "memory.png").stat().st_size > 5_000
    wrong = found[plan.key(QWEN, blocks[1])]
    wrong["wrong counts"] = [{"number": 60, "got": 3, "wanted": 4}]
    wrong["answers"][0] |= {"verdict": "other", "step": 0}
    text = report.write(plan.QUICK, found)
    assert "**1 wrong counts**" in text
    assert "**1 wrong answers**" in text
    wrong["answers"][0] |= {"step": None, "gap": 0.1}
    assert "of which 1 have log-probabilities more than" in report.write(plan.QUICK, found)
    assert "- request 60: {'number': 60, 'got': 3, 'wanted': 4}" in text


def test_growth_is_told_where_there_is_one():
    few = plan.Plan(requests={QWEN: 1000}, block=50)
    for growth, said in ((0.0, "+0.0"), (0.05, "+50.0")):
        found = [result(block, 1, growth) for block in few.blocks(QWEN)]
        assert report._memory(found)[-1].splitlines()[-1].endswith(f"| {said} |")


def test_the_embedded_model_needs_no_special_handling():
    reference = Reference(MODEL_DIR, EMBEDDED)
    photo = Pictures.open(SAMPLES_DIR / "coffee.jpg")
    image = Image(0, 90, 60)
    turns = (("user", (image, "Is there a star?")),)
    inputs = reference._inputs(Ask("image", turns))
    assert inputs["pixel_values"].shape[0] == 1
    assert photo.size[0] > 90
    wanted = counts.prompt_tokens(EMBEDDED, reference.processor.tokenizer, Ask("image", turns))
    assert inputs["input_ids"].shape[1] - 144 + otprune.count(0.5, 144) == wanted
