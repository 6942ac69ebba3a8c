"""A session's life: frames good and bad, questions, turns, state, threads."""

from __future__ import annotations

import copy
import functools
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig

import otprune
from otprune import (
    CDPruner,
    FixedCameraSelector,
    FrameError,
    OTPrune,
    OTPruneError,
    SelectorError,
    StaticPatches,
    StreamSelector,
    UnsupportedError,
    demo,
    prune,
    watch,
)
from otprune.engines.transformers.watching import language
from otprune.engines.transformers.watching.frames import image_of
from otprune.engines.transformers.watching.kinds import kind_of
from otprune.engines.transformers.watching.wording import ChatWording
from tests.families.base import IMAGE, VIDEO
from tests.families.test_watch import KEPT, Keep, NoOpening, ask, close, expected, gray, seen, tiny
from tests.families.watching import EVERY, GRID, TICKS, WATCHED, Words

QUESTION = "Is there a red circle?"


@functools.cache
def embedded() -> Any:
    return demo.load()


def session(**settings: Any) -> watch:
    selector = settings.pop("selector", None) or StreamSelector(8)
    return watch(*embedded(), selector, **settings)


def shown(number: int, size: tuple[int, int] = (96, 96)) -> Image.Image:
    """A frame of coloured noise, another for every number."""
    pixels = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)


# -- frames --------------------------------------------------------------------------------------


def test_every_kind_of_frame_shows_the_same() -> None:
    image = shown(1)
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy())
    forms = [image, array, array / 255, tensor, tensor.permute(2, 0, 1), tensor.float() / 255]
    kept = [session().see(form, time=0.0).indices.tolist() for form in forms]
    assert kept[0]
    assert all(one == kept[0] for one in kept)


def test_a_path_is_a_frame(tmp_path: Any) -> None:
    shown(1).save(tmp_path / "frame.png")
    wanted = session().see(shown(1)).indices
    assert torch.equal(session().see(tmp_path / "frame.png").indices, wanted)


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (None, "NoneType"),
        (np.zeros((4, 4, 2), dtype=np.uint8), "shape"),
        (np.zeros((0, 4, 3), dtype=np.uint8), "shape"),
        (np.zeros((4, 4, 3), dtype=np.int64), "dtype"),
        (np.full((4, 4, 3), 200.0), "outside"),
        (np.full((4, 4, 3), np.nan), "outside"),
        ("no/such/frame.png", "cannot be read"),
        (Image.new("RGB", (0, 4)), "size"),
        ([], "empty chunk"),
    ],
)
def test_a_bad_frame_is_refused_and_the_stream_goes_on(frame: Any, said: str) -> None:
    a, b = session(), session()
    for one in (a, b):
        one.see(shown(1), time=0.0)
    with pytest.raises(FrameError, match=said):
        a.see(frame, time=1.0)
    for one in (a, b):
        one.see(shown(2), time=2.0)
    assert a.ask(QUESTION, max_new_tokens=5) == b.ask(QUESTION, max_new_tokens=5)
    assert torch.equal(a._now.keys[0], b._now.keys[0])
    assert a.frames == b.frames == 2


def test_a_frame_of_another_size_is_seen() -> None:
    one = session()
    one.see(shown(1))
    assert one.see(shown(1, (64, 48))).changed
    assert one.see(shown(2, (200, 30))).changed


def test_frames_in_which_nothing_changed_are_not_encoded() -> None:
    one, image = session(unchanged=0.02), shown(1)
    assert one.see(image).changed
    state = one.state_dict()
    again = one.see(image)
    assert not again.changed
    assert again.before == 0
    assert again.seconds == 0
    for name, x in one.state_dict().items():
        if name not in ("counts", "time"):
            torch.testing.assert_close(x, state[name], rtol=0, atol=0, equal_nan=True)
    # Slow changes add up: each frame is compared with the last that was encoded.
    slow = [Image.blend(image, shown(2), 0.005 * i) for i in range(1, 20)]
    assert any(one.see(frame).changed for frame in slow)


def test_all_frames_are_encoded_at_0() -> None:
    one = session(unchanged=0)
    assert all(one.see(shown(1)).changed for _ in range(2))


def test_times_go_forward() -> None:
    one = session()
    one.see(shown(1), time=5)
    for time in (4.9, float("nan"), 1e300, "now", True, [6, 7]):
        with pytest.raises(OTPruneError, match="time"):
            one.see(shown(2), time=time)  # type: ignore[arg-type]
    assert one.see(shown(2), time=5).time == 5
    assert one.see(shown(3)).time >= 5


def test_a_chunk_is_for_models_that_encode_videos() -> None:
    with pytest.raises(UnsupportedError, match="one by one"):
        session().see([shown(1), shown(2)])
    one = watch(tiny("llava_onevision"), Words("llava_onevision"), Keep(*KEPT), unchanged=0)
    report = one.see([gray(1), gray(2)], time=[0.0, 1.0])
    assert report.indices.tolist() == KEPT[0]
    assert one.frames == 2
    with pytest.raises(FrameError, match="size"):
        one.see([gray(1), np.zeros((4, 4, 3), dtype=np.uint8)], time=[2.0, 3.0])


def test_pictures_are_read_as_other_parts_read_them(tmp_path: Any) -> None:
    """Not in the words of Pillow, which clips 16 bits and shows what is transparent."""
    image = shown(1)
    deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    assert np.array_equal(image_of(deep), image_of(image.convert("L")))
    clear = image.convert("RGBA")
    clear.putalpha(0)
    assert np.asarray(image_of(clear)).min() == 255
    exif = Image.Exif()
    exif[0x112] = 6
    shown(1, (96, 64)).save(tmp_path / "turned.png", exif=exif)
    turned = image_of(tmp_path / "turned.png")
    assert turned.size == (64, 96)
    assert np.array_equal(image_of(Image.open(tmp_path / "turned.png")), turned)


class Chunks(Words):
    """A chunk is one video, with a temporal patch for every two frames."""

    def frame(self, images: Any, times: Any) -> dict[str, Tensor]:
        parts = [super(Chunks, self).frame(images[i : i + 2], times) for i in (0, 2)]
        made = {k: torch.cat([x[k] for x in parts], dim=-1) for k in parts[0]}
        made["pixel_values_videos"] = torch.cat([x["pixel_values_videos"] for x in parts])
        made["video_grid_thw"] = torch.tensor([[2, *GRID[1:]]])
        return made


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl"])
def test_frames_of_a_chunk_have_their_own_times(name: str) -> None:
    one = watch(tiny(name), Chunks(name), Keep([0, 6], [0]), unchanged=0)
    one.see([gray(i) for i in range(4)], time=[1.0, 1.5, 4.0, 4.5])
    one.see([gray(i) for i in range(5, 9)], time=[5.0] * 4)
    first, second, third = one._now.positions[0, one._now.visual].tolist()
    assert [second - first, third - first] == [3 * TICKS[name], 4 * TICKS[name]]


@pytest.mark.parametrize("kept", [None, [1, 2], [1.0], [[1]], True])
def test_a_stream_selector_that_returns_no_indices_is_refused(kept: Any) -> None:
    selector = Keep([])
    selector.kept = [torch.tensor(kept) if kept not in (None, [1, 2]) else kept]
    one = watch(tiny("llava"), Words("llava"), selector)
    with pytest.raises(SelectorError, match="expected the indices"):
        one.see(gray(1))
    assert one.tokens == one.frames == 0


def test_a_model_whose_layers_use_no_cache_is_refused() -> None:
    model = WATCHED["llava"].model()
    one = watch(model, Words("llava"), Keep(*KEPT), unchanged=0)
    model.gradient_checkpointing_enable()
    model.train()
    for call in (
        lambda: one.see(gray(1)),
        lambda: one.ask("30", max_new_tokens=2),
        lambda: watch(model, Words("llava")),
    ):
        with pytest.raises(UnsupportedError, match="checkpointing"):
            call()


# -- questions -----------------------------------------------------------------------------------


def test_an_answer_leaves_no_trace() -> None:
    one = session()
    one.see(shown(1))
    before = one._now
    first = one.ask(QUESTION, max_new_tokens=5)
    assert one.ask("How many things are there?", max_new_tokens=5)
    assert one._now is before
    assert one.ask(QUESTION, max_new_tokens=5) == first


def test_a_question_before_the_first_frame_is_answered() -> None:
    assert session().ask(QUESTION, max_new_tokens=3)


def test_a_stream_of_text_is_the_answer() -> None:
    one = session()
    one.see(shown(1))
    pieces = list(one.stream("List all things.", max_new_tokens=12))
    assert len(pieces) > 2
    assert "".join(pieces).strip() == one.ask("List all things.", max_new_tokens=12)


def test_a_stream_of_text_can_be_left() -> None:
    one = session()
    one.see(shown(1))
    pieces = one.stream("List all things.", max_new_tokens=400, min_new_tokens=400, remember=True)
    next(pieces)
    running, before = threading.active_count(), one._now
    pieces.close()
    assert threading.active_count() == running - 1
    assert one._now is before
    assert one.ask(QUESTION, max_new_tokens=3)


def test_a_turn_is_remembered_if_its_stream_was_read_to_the_end() -> None:
    one = session()
    one.see(shown(1))
    before, threads = one._now, set(threading.enumerate())
    pieces = one.stream(QUESTION, max_new_tokens=2, remember=True)
    next(pieces)
    for thread in set(threading.enumerate()) - threads:
        thread.join()  # the answer is ready, and the caller does not want the rest
    pieces.close()
    assert one._now is before
    list(one.stream(QUESTION, max_new_tokens=2, remember=True))
    assert len(one._now) > len(before)


def test_a_streamer_of_the_callers_is_for_ask() -> None:
    with pytest.raises(UnsupportedError, match="streamer"):
        session().stream(QUESTION, streamer=object())
    assert list(session().stream(QUESTION, stopping_criteria=None, max_new_tokens=2))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_beams": 2}, "num_beams"),
        ({"num_return_sequences": 2}, "num_return_sequences"),
        ({"past_key_values": object()}, "past_key_values"),
        ({"input_ids": torch.ones(1, 2)}, "input_ids"),
        ({"pixel_values": torch.ones(1, 3, 8, 8)}, "pixel_values"),
        *(
            ({form: {name: value}}, name)
            for form in ("generation_config", "arguments")
            for name, value in {
                "use_cache": False,
                "return_dict_in_generate": True,
                "cache_implementation": "static",
                "prompt_lookup_num_tokens": 2,
            }.items()
        ),
    ],
)
def test_arguments_of_generate_that_do_not_work_are_refused(
    given: dict[str, Any], said: str
) -> None:
    if "generation_config" in given:
        given = {"generation_config": GenerationConfig(**given["generation_config"])}
    given = given.get("arguments", given)
    for ask_ in (session().ask, session().stream):
        with pytest.raises(UnsupportedError, match=said):
            ask_(QUESTION, **given)


def test_a_question_that_holds_a_place_of_an_image_is_refused() -> None:
    one = watch(tiny("qwen2_vl"), Words("qwen2_vl"), Keep(*KEPT))
    for call in (
        lambda: session().ask("Is <image> there?"),
        lambda: one.ask(f"30 {IMAGE} 31"),
        lambda: one.ask(f"30 {VIDEO} 31"),
    ):
        with pytest.raises(OTPruneError, match="question contains"):
            call()


class Other:
    """A processor with another chat template, or a tokenizer that adds a first token."""

    image_token = "<image>"

    def __init__(self, template: str, adds: bool = False) -> None:
        self.chat_template, self.adds = template, adds
        self._own = embedded()[1].tokenizer
        self.bos_token_id = self._own.bos_token_id
        self.tokenizer = self

    def apply_chat_template(self, turns: Any, **given: Any) -> Any:
        return self._own.apply_chat_template(turns, chat_template=self.chat_template, **given)

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = list(self._own(text, add_special_tokens=False)["input_ids"])
        return {"input_ids": [self.bos_token_id] * (self.adds and add_special_tokens) + ids}


def test_the_first_token_is_there_once() -> None:
    model, processor = embedded()
    whole = processor.chat_template
    bos = processor.tokenizer.bos_token_id
    bare = whole.replace("{{ bos_token }}", "")
    assert bare != whole
    for template, adds, wanted in [
        (whole, True, 1),
        (whole, False, 1),
        (bare, True, 1),
        (bare, False, 0),
    ]:
        opening = ChatWording(Other(template, adds), kind_of(model.config)).opening()
        assert opening.count(bos) == wanted


def test_a_template_that_puts_the_question_in_front_is_refused() -> None:
    template = (
        "{% for m in messages %}{{ m['content'][-1]['text'] }}"
        "{% for c in m['content'] if c['type'] == 'image' %}<image>{% endfor %}{% endfor %}"
    )
    with pytest.raises(UnsupportedError, match="behind the frames"):
        watch(embedded()[0], Other(template))


@pytest.mark.parametrize("question", ["", "  ", None, 3])
def test_an_empty_question_is_refused(question: Any) -> None:
    for ask_ in (session().ask, session().stream):
        with pytest.raises(OTPruneError, match="question"):
            ask_(question)


@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
def test_a_turn_is_remembered_as_in_one_prompt(name: str) -> None:
    """The turn stands in front of the next question."""
    one = seen(name)
    first, _ = ask(one, "30 31", remember=True)
    ids, logits = ask(one, "36 37")
    words = Words(name)
    said = " ".join(map(str, [30, 31, *first.tolist(), *words.reopening("")]))
    shown_ = [(1, 0.0), (2, EVERY), (3, 2 * EVERY)]
    close(logits, expected(name, shown_, KEPT, f"{said} 36 37", ids))


def test_a_remembered_answer_ends_once() -> None:
    one = session()
    one.see(shown(1))
    answer = one.ask(QUESTION, max_new_tokens=5, remember=True)
    end = embedded()[0].generation_config.eos_token_id
    assert answer in ("yes", "no")
    assert (one._now.ids == end).sum() == 1


def test_a_question_has_positions_that_the_model_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llava")
    monkeypatch.setattr(model.config.get_text_config(), "max_position_embeddings", 60)
    one = watch(model, Words("llava"), Keep(*KEPT * 6), unchanged=0, memory=7)
    taken = []
    make = language.generate

    def generate(model_: Any, ids: Tensor, positions: Tensor, *rest: Any) -> Tensor:
        taken.append(int(positions.max()))
        return make(model_, ids, positions, *rest)

    monkeypatch.setattr(language, "generate", generate)
    for i in range(15):
        one.see(gray(i + 1), time=float(i))
        before = one._now
        one.ask("30 31", max_new_tokens=20)
        assert one._now is before
        assert taken[-1] + 20 < 60


def test_a_turn_leaves_with_the_frames_before_it() -> None:
    one = watch(tiny("llava"), Words("llava"), Keep(*KEPT), unchanged=0, memory=4)
    one.see(gray(1), time=0.0)
    one.ask("30 31", max_new_tokens=2, remember=True)
    assert 30 in one._now.ids
    one.see(gray(2), time=1.0)  # one more token: all of the first frame stays
    assert 30 in one._now.ids
    one.see(gray(3), time=2.0)
    assert 30 not in one._now.ids
    assert one._now.ids[: one._now.opening].tolist() == Words("llava").opening()


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("frames", [0, 2])
def test_turns_without_end_stay_within_the_positions(
    name: str, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny(name).config.get_text_config(), "max_position_embeddings", 80)
    one = watch(tiny(name), Words(name), Keep(*KEPT), unchanged=0)
    for i in range(frames):
        one.see(gray(i + 1), time=float(i))
    for _ in range(20):
        one.ask("30 31", max_new_tokens=2, remember=True)
        assert one._now.place.next <= 80 - 20  # a quarter is left for a question
        assert int(one._now.positions.max()) < one._now.place.next
    assert 30 in one._now.ids
    assert one._now.ids[: one._now.opening].tolist() == Words(name).opening()


@pytest.mark.parametrize("forget", ["oldest", "replaced", OTPrune(0.5)])
def test_a_turn_takes_no_tokens_place(forget: Any) -> None:
    one = watch(tiny("llava"), Words("llava"), Keep(*KEPT), unchanged=0, memory=3, forget=forget)
    one.see(gray(1), time=0.0)
    one.ask("30 31", max_new_tokens=2, remember=True)
    assert one.kept[0].tolist() == KEPT[0]


def test_a_question_that_is_longer_than_the_positions_is_refused() -> None:
    with pytest.raises(OTPruneError, match="2047 of the model's 2048 positions"):
        session().ask("red " * 2100)


# -- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("forget", ["oldest", OTPrune(0.5)])
def test_memory_is_bounded_and_so_are_positions(forget: Any) -> None:
    one = watch(tiny("llava"), Words("llava"), StreamSelector(3, floor=1), memory=20, forget=forget)
    most = 0
    for i in range(150):
        one.see(gray(i), time=float(i))
        assert one.tokens <= 20
        assert len(one._now) == one._now.keys[0].shape[2]
        assert len(one._now.features) in (0, one.tokens)
        assert sum(len(x) for x in one.kept.values()) == one.tokens
        most = max(most, len(one._now))
    assert most < 120  # every remembered token brings at most a frame's text
    assert len(one._now.segments) <= 21


def test_what_stays_in_view_is_remembered_although_its_first_tokens_left() -> None:
    """The left half never changes; the right half always does."""
    selector = StreamSelector(8, novelty=0.02)
    one = session(selector=selector, memory=16, unchanged=0)
    still = np.asarray(shown(0))
    for i in range(60):
        frame = np.asarray(shown(i)).copy()
        frame[:, :48] = still[:, :48]
        one.see(frame, time=float(i))
    columns = torch.cat(list(one.kept.values())) % 12
    assert min(one.kept) > 20  # the first frames are gone
    assert (columns < 6).sum() >= 4


def test_a_token_leaves_when_another_in_its_place_is_kept() -> None:
    kept = [[0, 2, 3], [1], [0, 1]]
    one = watch(tiny("llava"), Words("llava"), Keep(*kept), unchanged=0, forget="replaced")
    for i, left in enumerate([{0: [0, 2, 3]}, {0: [0, 2, 3], 1: [1]}, {0: [2, 3], 2: [0, 1]}]):
        seen_ = one.see(gray(i + 1), time=float(i))
        assert {n: x.tolist() for n, x in one.kept.items()} == left
    assert seen_.forgotten == 2
    assert seen_.remembered == 4


def test_of_a_still_camera_the_newest_token_of_each_place_is_remembered() -> None:
    one = session(selector=FixedCameraSelector(12), memory=144, unchanged=0, forget="replaced")
    for i in range(12):
        one.see(shown(i), time=float(i))
        places = torch.cat(list(one.kept.values()))
        assert places.sort().values.tolist() == list(range(144))
    assert len(one.kept) > 3


def test_frames_of_another_size_have_no_place_in_common() -> None:
    model = tiny("llava_onevision")
    one = watch(model, Words("llava_onevision"), Keep([0], [1]), unchanged=0, forget="replaced")
    one.see(gray(1), time=0.0)
    one.see([gray(1), gray(2)], time=[1.0, 2.0])
    one._now = replace(
        one._now,
        segments={n: replace(x, tokens=x.tokens + 1) for n, x in one._now.segments.items()},
    )
    assert one._now.replaced(5, torch.tensor([4])).tolist() == one._now.visual.tolist()


def test_a_selector_decides_what_stays() -> None:
    one = watch(
        tiny("llava"), Words("llava"), Keep(*KEPT), unchanged=0, memory=4, forget=OTPrune(2)
    )
    for i in range(2):
        one.see(gray(i + 1), time=float(i))
    features = one._now.features
    wanted = OTPrune(2).select(features).tolist()
    all_ = [(frame, token) for frame, some in one.kept.items() for token in some.tolist()]
    one.see(gray(3), time=2.0)
    left = [(f, t) for f, some in one.kept.items() for t in some.tolist() if f < 2]
    assert set(left) <= {all_[i] for i in wanted}
    assert len(left) == 1  # of the two that stay one has to leave too, for a frame of three


def test_a_frame_that_does_not_fit_leaves_the_session_as_it_was() -> None:
    one = session(selector=StreamSelector(8, floor=8), memory=4)
    before = {name: x.clone() for name, x in one.state_dict().items()}
    with pytest.raises(OTPruneError, match="raise memory"):
        one.see(shown(1), time=0.0)
    after = one.state_dict()
    assert after.keys() == before.keys()
    for name, x in after.items():
        torch.testing.assert_close(x, before[name], rtol=0, atol=0, equal_nan=True)


# -- state ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl"])
def test_a_restored_session_goes_on_as_the_first_would(name: str, tmp_path: Any) -> None:
    def make() -> watch:
        return watch(
            tiny(name), Words(name), Keep(*KEPT * 4), memory=5, forget=OTPrune(0.5), unchanged=0
        )

    one, two = make(), make()
    for i in range(4):
        one.see(gray(i + 1), time=EVERY * i)
    one.ask("30", max_new_tokens=2, remember=True)
    one.save(tmp_path / "state.safetensors")
    two.load(tmp_path / "state.safetensors")
    for i in range(4, 8):
        torch.testing.assert_close(ask(one)[1], ask(two)[1], rtol=0, atol=0)
        for session_ in (one, two):
            session_.see(gray(i + 1), time=EVERY * i)
    assert one.kept.keys() == two.kept.keys()
    assert one.frames == two.frames == 8
    state = one.state_dict() | {"time": torch.tensor(200.0, dtype=torch.float64)}
    two.load_state_dict(state)
    assert 200 < two.see(gray(9)).time < 200 + 50  # the clock goes on


CHILD = """
import sys
from tests.engines.transformers.test_watch_session import session, shown

one = session()
for i in range(1000):
    one.see(shown(i), time=float(i))
    one.save(sys.argv[1])
    print(one.frames, flush=True)
"""


def test_a_killed_session_goes_on_in_another_process(tmp_path: Any) -> None:
    file = tmp_path / "state.safetensors"
    command = [sys.executable, "-c", CHILD, str(file)]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.strip() == "4":
                child.kill()
    one, whole = session(), session()
    one.load(file)
    assert one.frames >= 4
    for i in range(one.frames):
        whole.see(shown(i), time=float(i))
    for session_ in (one, whole):
        session_.see(shown(2000), time=2000.0)
    assert one.ask(QUESTION, max_new_tokens=5) == whole.ask(QUESTION, max_new_tokens=5)
    for a, b in zip(one._now.keys, whole._now.keys, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_a_state_of_something_else_is_refused(tmp_path: Any) -> None:
    one = seen("llava")
    state = one.state_dict()
    for other, said in [
        (watch(tiny("llava_next"), Words("llava_next"), Keep(*KEPT)), "another model"),
        (watch(tiny("llava"), Words("llava"), Keep(*KEPT), memory=9), "memory"),
        (watch(tiny("llava"), Words("llava"), Keep(*KEPT), forget=OTPrune(0.5)), "forget"),
        (watch(tiny("llava"), Words("llava"), StreamSelector(4)), "StreamSelector"),
        (watch(tiny("llava"), Words("llava"), OTPrune(2)), r"OTPrune\(keep=2"),
        (watch(tiny("llava"), Words("llava"), Keep(*KEPT), unchanged=0.5), "unchanged"),
    ]:
        before = other._now
        with pytest.raises(OTPruneError, match=said):
            other.load_state_dict(state)
        assert other._now is before
    half = copy.deepcopy(tiny("llava")).bfloat16()
    wide = watch(copy.deepcopy(half).float(), Words("llava"), Keep(*KEPT), unchanged=0)
    with pytest.raises(OTPruneError, match="precision"):
        watch(half, Words("llava"), Keep(*KEPT), unchanged=0).load_state_dict(wide.state_dict())
    bare = [watch(tiny("llava"), NoOpening("llava"), Keep(*KEPT)) for _ in range(2)]
    bare[0].see(gray(1))
    bare[1].load_state_dict(bare[0].state_dict())  # of which nothing has a precision yet
    assert bare[1].tokens == bare[0].tokens > 0
    for lost in ("cache.ids", "cache.values.0", "cache.segments", "last.thumbnail"):
        two = watch(tiny("llava"), Words("llava"), Keep(*KEPT), unchanged=0)
        before = two._now
        with pytest.raises(OTPruneError, match="not whole"):
            two.load_state_dict({name: x for name, x in state.items() if name != lost})
        assert two._now is before
        assert two._selector.at == 0
    with pytest.raises(OTPruneError, match="not a session's"):
        one.load_state_dict({})
    (tmp_path / "broken").write_bytes(b"no tensors")
    for path in ("broken", "missing"):
        with pytest.raises(OTPruneError, match="cannot be read"):
            one.load(tmp_path / path)


def test_a_closed_session_says_so() -> None:
    with session() as one:
        one.see(shown(1))
    for call in (
        lambda: one.see(shown(1)),
        lambda: one.ask(QUESTION),
        lambda: one.stream(QUESTION),
        one.state_dict,
    ):
        with pytest.raises(OTPruneError, match="closed"):
            call()


# -- beside other calls --------------------------------------------------------------------------


def test_questions_in_one_thread_while_another_sees() -> None:
    """Every answer is that of some moment of the stream."""
    serial = watch(tiny("llava"), Words("llava"), Keep(*KEPT * 4), unchanged=0, memory=8)
    wanted: list[Tensor] = [ask(serial)[1]]
    for i in range(12):
        serial.see(gray(i + 1), time=float(i))
        wanted.append(ask(serial)[1])

    one = watch(tiny("llava"), Words("llava"), Keep(*KEPT * 4), unchanged=0, memory=8)
    failed: list[BaseException] = []

    def look() -> None:
        try:
            for i in range(12):
                one.see(gray(i + 1), time=float(i))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    found = []
    while thread.is_alive() or not found:
        found.append(ask(one)[1])
    thread.join()
    assert not failed
    for logits in found:
        assert any(torch.equal(logits, x) for x in wanted)
    assert torch.equal(ask(one)[1], wanted[-1])


def test_sessions_of_one_model_do_not_meet() -> None:
    alone = [session(selector=StreamSelector(8)) for _ in range(2)]
    mixed = [session(selector=StreamSelector(8)) for _ in range(2)]
    for i in range(3):
        for j in range(2):
            alone[j].see(shown(10 * j + i), time=float(i))
    for j in range(2):
        for i in range(3):
            mixed[j].see(shown(10 * j + i), time=float(i))
    for a, b in zip(alone, mixed, strict=True):
        assert torch.equal(a._now.keys[0], b._now.keys[0])


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl"])
def test_what_the_model_counts_positions_from_is_left_alone(name: str) -> None:
    model = tiny(name)
    model.base_model.rope_deltas = torch.tensor([[-7]])
    one = seen(name)
    ask(one)
    assert model.base_model.rope_deltas.tolist() == [[-7]]
    model.base_model.rope_deltas = None


def test_a_saved_session_leaves_no_other_file(tmp_path: Any) -> None:
    one = seen("llava")
    threads = [threading.Thread(target=one.save, args=[tmp_path / "state"]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    seen("llava").load(tmp_path / "state")
    with pytest.raises(OTPruneError, match="cannot be saved"):
        one.save(tmp_path / "missing" / "state")


def test_pruned_calls_of_the_model_go_on_as_before() -> None:
    model, processor = embedded()
    inputs = processor(text="<bos><image>List all things.", images=[shown(1)], return_tensors="pt")
    with prune(model, OTPrune(0.1)) as run:
        wanted = model.generate(**inputs, max_new_tokens=5)
        one = session()
        one.see(shown(2))
        inside = one.ask(QUESTION, max_new_tokens=5)
        assert torch.equal(model.generate(**inputs, max_new_tokens=5), wanted)
        assert run.last is not None
        assert run.last[0].after == 14
    otprune.enable(model, OTPrune(0.1))
    try:
        two = session()
        two.see(shown(2))
        assert two.ask(QUESTION, max_new_tokens=5) == inside
    finally:
        otprune.disable(model)
    three = session()
    three.see(shown(2))
    assert three.ask(QUESTION, max_new_tokens=5) == inside


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"memory": 0}, "memory"),
        ({"memory": True}, "memory"),
        ({"memory": 2.5}, "memory"),
        ({"memory": 10_000}, "positions"),
        ({"forget": "newest"}, "forget"),
        ({"forget": CDPruner(0.1)}, "question"),
        ({"unchanged": 1.0}, "unchanged"),
        ({"unchanged": -0.1}, "unchanged"),
        ({"selector": StreamSelector}, "selector"),
        ({"selector": 0.1}, "selector"),
        ({"selector": StaticPatches()}, "patches"),
        ({"selector": CDPruner(0.1)}, "question"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(OTPruneError, match=said):
        watch(*embedded(), **settings)


def test_a_selector_of_images_keeps_its_share_of_every_frame() -> None:
    one = session(selector=OTPrune(0.1), unchanged=0)
    assert [len(one.see(shown(i)).indices) for i in range(3)] == [14, 14, 14]
