"""A session: frames come in, kept tokens are remembered, questions are answered at any time."""

from __future__ import annotations

import threading
import time as clocks
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from PIL.Image import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, StoppingCriteriaList, TextIteratorStreamer

from otprune.engines.common.selection import Choice, timed_call
from otprune.engines.transformers.encoded import Encoded, encode_call
from otprune.engines.transformers.families import check
from otprune.engines.transformers.features import with_kept_features
from otprune.engines.transformers.prompt import setting
from otprune.engines.transformers.versions import Untested, check_tested
from otprune.engines.transformers.watching import language
from otprune.engines.transformers.watching.arguments import (
    Forget,
    forget_of,
    memory_of,
    selector_of,
    share_of,
)
from otprune.engines.transformers.watching.frames import change, image_of, thumbnail
from otprune.engines.transformers.watching.kinds import kind_of
from otprune.engines.transformers.watching.places import Segment
from otprune.engines.transformers.watching.remembered import Remembered
from otprune.engines.transformers.watching.room import Room
from otprune.engines.transformers.watching.rotation import KeyRotation
from otprune.engines.transformers.watching.wording import ChatWording, Wording, check_question
from otprune.errors import FrameError, OTPruneError, SelectorError, UnsupportedError
from otprune.selectors import Reduction, Selector
from otprune.selectors.picks import check_kept

_LONGEST = 1e12  # seconds; beyond, positions in time overflow
_RESERVE = 1024  # positions that are left free for a question and its answer


@dataclass(frozen=True)
class Seen:
    """What a session made of a frame.

    frame: its number, from 0. A chunk counts one for each of its frames; this is the first.
    time: its time in seconds.
    changed: whether it was encoded. A frame in which nothing changed is not.
    before: number of its tokens; 0 if it was not encoded.
    indices: `(k,)` int64, ascending, the kept ones; k may be 0.
    forgotten: number of older visual tokens that left the memory.
    remembered: number of visual tokens in the memory now.
    encode, select, prefill: seconds of the encoder with its preprocessing, of the selection, and of
        the language model over the kept tokens.
    """

    frame: int
    time: float
    changed: bool
    before: int
    indices: Tensor
    forgotten: int
    remembered: int
    encode: float
    select: float
    prefill: float

    @property
    def seconds(self) -> float:
        """Time of the whole frame but for reading it."""
        return self.encode + self.select + self.prefill


class watch:  # noqa: N801 - used as a function is
    """Watch a stream of frames with a vision-language model, and ask about it at any time.

        with otprune.watch(model, processor, otprune.StreamSelector(rate=16)) as session:
            for frame in camera:
                session.see(frame)
            print(session.ask("What changed?", max_new_tokens=30))

    `see` encodes a frame, selects the tokens that are new, and appends them to a KV cache. `ask`
    answers from that cache and leaves no trace in it. Both take bounded time and memory, however
    long the stream is. Kept tokens see the frames before them, as in one long prompt: until tokens
    leave the memory, an answer is that of one prompt with the same kept tokens.

    When more than `memory` visual tokens would be remembered, some leave. What is left keeps what
    it once saw of those that left, as in any cache whose oldest entries are dropped. A frame's text
    leaves with its last token. Selectors with a method `forget` (`StreamSelector`,
    `FixedCameraSelector`) are told what left, so that something that stays in view is kept anew;
    others keep it once. When the model runs out of positions, what is remembered is laid out anew
    from the first position: cached keys are turned to their new positions, values stay.

    `see` and `ask` may be called in different threads. Calls of `see` wait for each other; `ask`
    answers from what was remembered when it began.

    Args:
        model: a supported model in which all layers of the language model see all tokens and turn
            keys by one known rotary embedding. Others are refused.
        processor: its processor; or a `Wording`, which makes the token ids around frames.
        selector: what is kept of each frame: a `StreamSelector` or another selector of streams,
            used for this session alone; or a `Selector`, for each frame by itself. None: a
            `StreamSelector` of 16 tokens a frame.
        memory: the largest number of visual tokens remembered. None: 2048, or half of the model's
            positions if those are fewer.
        forget: what leaves when the memory is full: the "oldest" tokens; or a `Selector`, which
            then chooses what stays among all that is remembered, such as `OTPrune(0.75)`.
            "replaced": a token leaves as soon as another in its place is kept, so that the memory
            holds the newest token of each place, for cameras that stand still and questions about
            what is there now; of a full memory the oldest leave too.
        unchanged: a frame is not encoded if no block of a 64 x 64 thumbnail changed by more than
            this since the last encoded frame, as a share of full brightness. 0: encode all. Such a
            frame adds nothing to what a `StreamSelector` may keep of the next ones.
        untested_transformers: see `Settings`.

    Raises:
        UnsupportedError: the model, or its processor's chat template, does not allow it; says why.
        OTPruneError: an argument is wrong.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: Any,
        selector: Any = None,
        *,
        memory: int | None = None,
        forget: Forget = "oldest",
        unchanged: float = 0.02,
        untested_transformers: Untested = "refuse",
    ) -> None:
        check_tested(untested_transformers)
        check(model)
        language.check_layers(model)
        turn = KeyRotation(model)
        self._model: Any = model
        self._kind = kind_of(model.config)
        custom = all(hasattr(processor, x) for x in ("opening", "frame", "question", "reopening"))
        self._wording: Wording = processor if custom else ChatWording(processor, self._kind)
        self._selector = selector_of(selector)
        positions = int(model.config.get_text_config().max_position_embeddings)
        reserve = min(_RESERVE, positions // 4)
        memory = memory_of(memory, positions, reserve)
        self._room = Room(memory, positions, reserve, forget_of(forget), turn)
        self._tells = callable(getattr(self._selector, "forget", None))
        self._stores_features = self._tells or isinstance(forget, Selector)
        self._unchanged = share_of("unchanged", unchanged)
        self._seeing = threading.RLock()
        self._closed = False
        self._start = clocks.monotonic()
        self._frames = 0
        self._time = 0.0
        self._last: tuple[tuple[int, int], Tensor] | None = None
        self._number = 0
        self._axes = 3 if language.has_mrope(model) else 1
        self._now = self._with_text(
            Remembered.nothing(self._axes, model.device), self._wording.opening(), opens=True
        )

    def __enter__(self) -> watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the session and free its memory."""
        with self._seeing:
            self._closed = True
            self._now = Remembered.nothing(len(self._now.positions), self._model.device)

    # -- what is remembered ------------------------------------------------------------------------

    @property
    def frames(self) -> int:
        """Number of frames seen so far."""
        return self._frames

    @property
    def tokens(self) -> int:
        """Number of visual tokens remembered."""
        return int(self._now.visual.sum())

    @property
    def kept(self) -> dict[int, Tensor]:
        """Which tokens of which frame are remembered: `(k,)` int64 by frame number."""
        now = self._now
        found = {}
        for number, segment in now.segments.items():
            if segment.frame >= 0:
                found[segment.frame] = now.source[(now.segment == number) & now.visual]
        return found

    # -- see ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def see(self, frame: Any, time: float | Sequence[float] | None = None) -> Seen:
        """Take in the next frame, or a chunk of frames that the model encodes together.

        Args:
            frame: a PIL image; an RGB array or tensor `(H, W, 3)` or `(3, H, W)`, uint8 or floats
                in [0, 1]; the path of an image. Or a list of these, a chunk: one call of a video
                encoder, and one push to the selector.
            time: seconds since the start, not before the last frame's; of a chunk a list. None: by
                the clock. Models with time stamps (Qwen-VL) read it.

        Raises:
            FrameError: the frame cannot be read, or the processor refuses it. The session is
                unchanged, and goes on with the next frame.
            OTPruneError: the time goes back, the session is closed, or one frame keeps more tokens
                than fit the memory. The session is unchanged.
        """
        with self._seeing:
            self._check_open()
            given = list(frame) if isinstance(frame, (list, tuple)) else [frame]
            if not given:
                raise FrameError("an empty chunk: expected at least one frame")
            if len(given) > 1 and self._kind.modality == "image":
                raise UnsupportedError(
                    f"{type(self._model).__name__} takes frames as images here, one by one: call "
                    "see(frame) for each frame of a chunk"
                )
            images = [image_of(one) for one in given]
            if len({image.size for image in images}) > 1:
                raise FrameError("the frames of a chunk differ in size: see them one by one")
            times = self._times(time, len(images))
            seen = self._see(images, times)
            self._frames += len(images)
            self._time = times[-1]
            return seen

    def _see(self, images: list[Image], times: list[float]) -> Seen:
        looks = (images[-1].size, thumbnail(images[-1]))
        none = torch.empty(0, dtype=torch.int64, device=self._model.device)
        report = Seen(self._frames, times[0], False, 0, none, 0, self.tokens, 0.0, 0.0, 0.0)
        if all(self._is_unchanged(image) for image in images):
            return report
        device = self._model.device
        call, encode = timed_call(partial(self._encode, images, times), device)
        tokens = call.visual[0].features.detach()
        before = None if isinstance(self._selector, Selector) else self._selector.state_dict()
        try:
            indices, select = timed_call(partial(self._select, tokens), device)
            now, prefill = timed_call(partial(self._append, call, indices, times), device)
        except BaseException:
            if before is not None:
                self._selector.load_state_dict(before)
            raise
        forgotten = self.tokens + len(indices) - int(now.visual.sum())
        self._now, self._last = now, looks
        return replace(
            report,
            changed=True,
            before=len(tokens),
            indices=indices,
            forgotten=forgotten,
            remembered=self.tokens,
            encode=encode,
            select=select,
            prefill=prefill,
        )

    def _is_unchanged(self, image: Image) -> bool:
        if not self._unchanged or self._last is None or self._last[0] != image.size:
            return False
        return change(thumbnail(image), self._last[1]) <= self._unchanged

    def _encode(self, images: list[Image], times: list[float]) -> Encoded:
        inputs = language.on_device(self._model, self._wording.frame(images, times))
        call = encode_call(self._model, inputs)
        if len(call.visual) != 1 or len(call.ids) != 1:
            raise UnsupportedError(
                f"{type(self._model).__name__} made {len(call.visual)} images of one frame: "
                "expected one"
            )
        return call

    def _select(self, tokens: Tensor) -> Tensor:
        selector: Any = self._selector
        if isinstance(selector, Selector):
            return selector.select(tokens)
        indices: Tensor = selector.push(tokens)
        if not isinstance(indices, Tensor) or indices.dtype != torch.int64 or indices.ndim != 1:
            found = (indices.dtype, indices.shape) if isinstance(indices, Tensor) else type(indices)
            raise SelectorError(
                f"{type(selector).__name__}.push returned {found}: expected the indices of the "
                "tokens to keep, (k,) int64"
            )
        check_kept(type(selector), indices, len(tokens))
        return indices

    def _append(self, call: Encoded, indices: Tensor, times: list[float]) -> Remembered:
        """What is remembered after a frame; self is not changed but for the segments' number."""
        if not len(indices):
            return self._now
        ((modality, some),) = call.images.items()
        at = call.at[modality][0]
        source = torch.full_like(call.ids[0], -1)
        source[at] = torch.arange(int(at.sum()), device=source.device)
        stays = ~at
        stays[at.nonzero()[:, 0][indices]] = True
        full = language.positions_of(self._model, call)
        axes = full[-3:, 0] if full.ndim == 3 else full
        ticks = self._kind.ticks(self._model.config, times)
        if ticks:  # the model's own positions know nothing of the times in a chunk
            axes = axes.clone()
            first, each = axes[0, at].min(), int(at.sum()) // len(ticks)
            axes[0, at] = first + axes.new_tensor(ticks).repeat_interleave(each) - ticks[0]
        segment = Segment(
            number=self._number,
            frame=self._frames,
            length=int(axes.max()) + 1,
            ticks=ticks[0] if ticks else None,
            tokens=len(some.tokens[0]),
        )
        features = some.tokens[0][indices]
        choice = Choice(Reduction(indices, partial(torch.ones, len(indices)), features), 0.0)
        outputs = {
            modality: with_kept_features(self._model, call.outputs[modality], some, [choice])
        }
        offsets = axes[:, stays].to(self._now.offsets.device)
        now, gone = self._room.made(self._now, indices, segment, offsets)
        if self._stores_features:
            old = now.features if len(now.features) else features[:0]
            now = replace(now, features=torch.cat([old, features]))
        ids, source = call.ids[0][stays], source[stays]
        now = self._extended(now, segment, ids, offsets, source, outputs)
        self._forgotten(gone)
        return now

    # -- ask ---------------------------------------------------------------------------------------

    def ask(self, question: str, *, remember: bool = False, **generate: Any) -> str:
        """Answer a question about what was seen so far.

        Args:
            question: in the model's own words; the chat template is put around it.
            remember: whether question and answer become a part of what is remembered, behind what
                has been seen by the time the answer is ready. They leave with the frames before
                them.
            generate: arguments of `model.generate`, such as `max_new_tokens`, for one sequence
                without beams.

        Raises:
            OTPruneError: the question is empty, or the session is closed.
            UnsupportedError: an argument of generate() that does not work here.
        """
        ids, answer = self._answer(question, generate)
        if remember:
            self._keep_turn(question, ids, answer, generate)
        return self._text(answer)

    def stream(self, question: str, *, remember: bool = False, **generate: Any) -> Iterator[str]:
        """The same as `ask`, piece by piece, as the text is generated.

        If the caller stops early, so does the generation; nothing is remembered then.
        """
        self._check_open()
        check_question(question)
        language.check_generate(self._model, generate)
        if generate.get("streamer") is not None:
            raise UnsupportedError("streamer: stream() has its own; give yours to ask()")
        return self._stream(question, remember, generate)

    def _stream(self, question: str, remember: bool, generate: dict[str, Any]) -> Iterator[str]:
        pieces = TextIteratorStreamer(
            self._wording.tokenizer, skip_prompt=True, skip_special_tokens=True
        )
        stopped = threading.Event()
        answered: list[tuple[list[int], Tensor]] = []
        failed: list[BaseException] = []
        criteria = [*(generate.get("stopping_criteria") or ()), language.Stop(stopped)]
        given = {
            **generate,
            "streamer": pieces,
            "stopping_criteria": StoppingCriteriaList(criteria),
        }

        def work() -> None:
            try:
                answered.append(self._answer(question, given))
            except BaseException as error:
                failed.append(error)
                pieces.text_queue.put(pieces.stop_signal)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield from pieces
        except BaseException:  # also of the caller's, thrown in here
            stopped.set()
            raise
        finally:
            thread.join()
        if failed:
            raise failed[0]
        if remember:
            self._keep_turn(question, *answered[0], generate)

    def _answer(self, question: str, generate: dict[str, Any]) -> tuple[list[int], Tensor]:
        """The ids of a question and of its answer."""
        self._check_open()
        ids = self._wording.question(check_question(question))
        language.check_text(self._model, ids)
        language.check_generate(self._model, generate)
        now = self._now
        longest = setting(self._model, generate, "max_new_tokens") or 0
        most = self._room.positions
        if now.place.next + len(ids) + longest > most:
            now = now.moved(self._room.turn)
        free = most - now.place.next
        if len(ids) > free:
            raise OTPruneError(
                f"the question has {len(ids)} tokens, and {free} of the model's {most} "
                "positions are free: ask a shorter one, or lower memory"
            )
        new = torch.tensor(ids, device=now.ids.device)
        positions, _ = now.place.put(*self._text_segment(ids))
        answer = language.generate(
            self._model,
            torch.cat([now.ids, new]),
            torch.cat([now.positions, positions], dim=-1),
            now.cache(),
            generate,
        )
        return ids, answer

    def _keep_turn(
        self, question: str, ids: list[int], answer: Tensor, generate: dict[str, Any]
    ) -> None:
        turn = [*ids, *language.without_end(self._model, answer, generate)]
        turn += self._wording.reopening(question)
        with self._seeing:
            self._check_open()
            now, gone = self._room.made(self._now, self._now.ids[:0], *self._text_segment(turn))
            self._now = self._with_text(now, turn)
            self._forgotten(gone)

    def _text(self, answer: Tensor) -> str:
        return str(self._wording.tokenizer.decode(answer, skip_special_tokens=True)).strip()

    # -- state -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """All that later answers depend on, as tensors (`safetensors` can save them)."""
        with self._seeing:
            self._check_open()
            state = {f"cache.{name}": x for name, x in self._now.state().items()}
            if not isinstance(self._selector, Selector):
                more = self._selector.state_dict()
                state |= {f"selector.{name}": x for name, x in more.items()}
            if self._last is not None:
                state["last.size"] = torch.tensor(self._last[0])
                state["last.thumbnail"] = self._last[1]
            state["counts"] = torch.tensor([self._frames, self._number])
            state["settings"] = torch.tensor(list(self._settings().encode()), dtype=torch.uint8)
            state["time"] = torch.tensor(self._time, dtype=torch.float64)
            state["model"] = language.fingerprint(self._model)
            return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on where another session of the same model and settings was.

        Raises:
            OTPruneError: the state is not one of a session, or of another model or other settings.
        """
        missing = {"counts", "settings", "time", "model"} - set(state)
        if missing:
            raise OTPruneError(f"the state is not a session's: it has no {', '.join(missing)}")
        own, saved = language.fingerprint(self._model), state["model"].cpu()
        if own.shape != saved.shape or not torch.equal(own, saved):
            raise OTPruneError("the state is that of another model: load the one it was saved with")
        has = self._settings().splitlines()
        had = bytes(state["settings"].tolist()).decode(errors="replace").splitlines()
        if had != has:
            raise OTPruneError(
                f"the state is that of a session with {', '.join(x for x in had if x not in has)}, "
                f"this one has {', '.join(x for x in has if x not in had)}: make one with the "
                "settings that it was saved with"
            )
        with self._seeing:
            self._check_open()
            try:
                now = Remembered.of_state(_under(state, "cache."), self._model.device)
                frames, number = state["counts"].tolist()
                last = None
                if "last.size" in state:
                    width, height = state["last.size"].tolist()
                    last = (width, height), state["last.thumbnail"].cpu()
            except (KeyError, TypeError, ValueError) as cause:
                raise OTPruneError(
                    f"the state is not a session's, or not whole: {cause}"
                ) from cause
            own_types, types = ({x.dtype for x in some.keys} for some in (self._now, now))
            if own_types and types and own_types != types:
                raise OTPruneError(
                    "the state is that of a model in another precision: load the model as it was"
                )
            if not isinstance(self._selector, Selector):
                self._selector.load_state_dict(_under(state, "selector."))
            self._now, self._last = now, last
            self._frames, self._number = frames, number
            self._time = float(state["time"])
            self._start = clocks.monotonic() - self._time

    def save(self, path: str | Path) -> None:
        """Write the state to a safetensors file.

        Raises:
            OTPruneError: it cannot be written there.
        """
        state = self.state_dict()
        whole = Path(path)
        # A file of its own first, so that neither a killed process nor another one leaves a half.
        part = whole.with_name(f"{whole.name}.{uuid.uuid4().hex}.part")
        try:
            save_file({name: x.contiguous().clone() for name, x in state.items()}, str(part))
            part.replace(whole)
        except (OSError, SafetensorError) as cause:
            raise OTPruneError(f"the session cannot be saved to {path}: {cause}") from cause
        finally:
            part.unlink(missing_ok=True)

    def load(self, path: str | Path) -> None:
        """Read the state from a file that `save` wrote.

        Raises:
            OTPruneError: the file cannot be read, or as for `load_state_dict`.
        """
        try:
            state = load_file(str(path))
        except (OSError, SafetensorError) as cause:
            raise OTPruneError(f"{path} cannot be read as a saved session: {cause}") from cause
        self.load_state_dict(state)

    def _settings(self) -> str:
        """What sessions share that go on from one state, a line each.

        Selectors of streams check their own.
        """
        selector = self._selector
        shown = repr(selector) if isinstance(selector, Selector) else type(selector).__name__
        return (
            f"selector={shown}\nmemory={self._room.memory}\nforget={self._room.forget!r}\n"
            f"unchanged={self._unchanged:g}"
        )

    # -- private -----------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise OTPruneError("the session is closed: make a new one with otprune.watch(...)")

    def _times(self, given: float | Sequence[float] | None, frames: int) -> list[float]:
        if given is None:
            return [max(self._time, clocks.monotonic() - self._start)] * frames
        times: list[Any] = list(given) if isinstance(given, Sequence) else [given] * frames
        if len(times) != frames or not all(map(_is_time, times)):
            raise OTPruneError(f"time={given!r}: expected seconds, one for each of {frames} frames")
        if times != sorted(times) or times[0] < self._time:
            raise OTPruneError(
                f"time={given!r} is before that of an earlier frame, {self._time:g} s: frames come "
                "in the order of their times"
            )
        return [float(x) for x in times]

    def _with_text(self, now: Remembered, ids: list[int], opens: bool = False) -> Remembered:
        """With some text behind what is remembered."""
        if not ids:
            return now
        new = torch.tensor(ids, device=self._model.device)
        segment, offsets = self._text_segment(ids)
        now = self._extended(now, segment, new, offsets, torch.full_like(new, -1))
        return replace(now, opening=len(ids)) if opens else now

    def _text_segment(self, ids: list[int]) -> tuple[Segment, Tensor]:
        """Some text as a segment, and the positions `(axes, n)` in it."""
        offsets = torch.arange(len(ids), device=self._model.device)
        return Segment(self._number, -1, len(ids)), offsets.repeat(self._axes, 1)

    def _forgotten(self, features: Tensor) -> None:
        """Tell the selector which tokens left, `(p, d)`."""
        if len(features) and self._tells:
            self._selector.forget(features)

    def _extended(
        self,
        now: Remembered,
        segment: Segment,
        ids: Tensor,
        offsets: Tensor,
        source: Tensor,
        outputs: dict[str, Any] | None = None,
    ) -> Remembered:
        positions, _ = now.place.put(segment, offsets)
        cache = now.cache()
        language.prefill(self._model, ids, positions, cache, outputs)
        self._number += 1
        return now.extended(cache, segment, ids, offsets, source)


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): x for k, x in state.items() if k.startswith(prefix)}


def _is_time(given: object) -> bool:
    return isinstance(given, Real) and not isinstance(given, bool) and abs(float(given)) < _LONGEST
