"""The page itself: gradio's components, wired to the functions beside this module.

Every handler gets all that it needs as arguments and holds nothing, so one visitor's settings and
image never reach another. What outlives a call is in that visitor's `gr.State`: the kept patches
that can be looked at, and the session of a camera.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import wraps
from html import escape
from typing import Any

import gradio as gr

from otprune import __version__, demo
from otprune.asking.models import Loaded
from otprune.errors import OTPruneError
from otprune.page import asked, overlay, watching
from otprune.page.asked import problem
from otprune.page.overlay import Picture
from otprune.page.wanted import Wanted, hears, summaries
from otprune.selectors.named import RECOMMENDED

SAMPLES = {
    "coffee": "Is the blue star left of the red circle?",
    "cat": "How many things are there?",
    "rocket": "What digit is shown?",
    "camera": "Is there a blue square?",
}
ANYTHING = "What is in the picture?"  # a question for another model than the embedded one
COMPARED = [RECOMMENDED, "otprune", "transport", "random"]
# Uploads are deleted when they are so old, in seconds, and looked at so often.
CLEAN_EVERY, CLEAN_AFTER = 600, 3600
PICTURE = "The image with its kept patches; the others are dim"
LARGEST = "50mb"  # of an upload
AT_ONCE = 2  # visitors whom the model answers at the same time; others wait

PRIVATE: dict[str, Any] = {"api_visibility": "private"}
MODEL: dict[str, Any] = {
    "concurrency_id": "model",
    "concurrency_limit": AT_ONCE,
    "show_progress": "hidden",
}
# Of clicks while one is worked on the last counts, since its image or settings may be other ones.
WORK: dict[str, Any] = {**MODEL, "trigger_mode": "always_last"}

_log = logging.getLogger(__name__)
Handler = Callable[..., Iterator[Any]]


def _fetching_nothing(block: Any) -> None:
    """Have a component refuse a request that names an address in the place of an upload.

    The method is set on the instance, here and in `_unread`: of a subclass gradio writes a stub
    beside this file, and the browser looks for the subclass's own code.
    """
    move = block.async_move_resource_to_block_cache

    async def local(path: Any) -> Any:
        if str(path).startswith(("http://", "https://")):
            raise gr.Error("A file has to be uploaded.", print_exception=False)
        return await move(path)

    block.async_move_resource_to_block_cache = local


def _unread(image: Any) -> Any:
    """The component, giving the path of its file as it is: gradio's own error for a broken one
    would be Pillow's."""
    read = image.preprocess

    def preprocess(payload: Any) -> Any:
        return str(payload.path) if payload is not None and payload.path else read(payload)

    image.preprocess = preprocess
    return image


def told(note: gr.HTML) -> Callable[[Handler], Handler]:
    """A handler that yields outputs by component; what it does and its errors are in a note."""

    def around(function: Handler) -> Handler:
        @wraps(function)
        def handler(*arguments: Any) -> Iterator[Any]:
            yield {note: _status("Working")}
            try:
                yield from function(*arguments)
                yield {note: ""}
            except Exception as error:
                yield {note: _message(error)}

        return handler

    return around


def _message(error: Exception) -> str:
    """An error in the page. One that is not of this package is a fault, and logged."""
    if isinstance(error, OTPruneError):
        return problem(error)
    _log.error("a request of the page failed", exc_info=error)
    memory = "OutOfMemory" in type(error).__name__
    why = "it has too little memory for this" if memory else "its log says why"
    return problem(f"This failed on the machine that runs the page: {why}.")


def build(loaded: Loaded) -> gr.Blocks:
    """The page for a model."""
    with gr.Blocks(
        title="otprune",
        fill_width=True,
        analytics_enabled=False,
        delete_cache=(CLEAN_EVERY, CLEAN_AFTER),
    ) as page:
        gr.HTML(
            "<h1>otprune</h1><p>A question, answered with all visual tokens and with the kept "
            f"ones. Model: {escape(loaded.name)}. Version {__version__}.</p>"
        )
        with gr.Tabs():
            with gr.Tab("Image"):
                _Images(loaded)
            with gr.Tab("Stream"):
                _streams(loaded)
    for block in page.blocks.values():
        _fetching_nothing(block)
    page.queue(api_open=False, default_concurrency_limit=AT_ONCE)
    return page


class _Images:
    """Ask, compare and sweep: one image, one question, and the settings beside them."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                self._inputs()
            with gr.Column(scale=3, min_width=300):
                self._note = _html()
                self._told = told(self._note)
                with gr.Tabs():
                    with gr.Tab("Ask"):
                        self._ask()
                    with gr.Tab("Compare"):
                        self._compare()
                    with gr.Tab("Sweep"):
                        self._sweep()

    def _inputs(self) -> None:
        image = gr.Image(
            label="Image",
            type="filepath",
            image_mode=None,
            sources=["upload", "webcam", "clipboard"],
            buttons=[],
            height=320,
        )
        self._image = _unread(image)
        samples = gr.Radio(list(SAMPLES), label="Or a sample", value=None)
        self._question = gr.Textbox(
            label="Question", max_length=2000, placeholder="How many things are there?"
        )
        if self._loaded.embedded:
            with gr.Accordion("What the embedded model understands", open=False):
                gr.HTML(f"<p class='otp-help'>{escape(demo.HELP)}</p>")
        keep = gr.Slider(0.01, 1, 0.1, step=0.01, label="Keep: share of the visual tokens")
        method = gr.Dropdown(
            list(summaries()), value="otprune", label="Method", info=summaries()["otprune"]
        )
        with gr.Accordion("More settings", open=False):
            merge = gr.Checkbox(
                label="Merge: a kept token becomes the mean of those that it stands for"
            )
            mass = gr.Radio(
                [
                    ("none: one each", "none"),
                    ("total: together as much as all tokens", "total"),
                    ("token: each as much as those that it stands for", "token"),
                ],
                value="none",
                label="Mass of kept tokens in attention",
            )
            encoder = gr.Slider(
                0.05,
                1,
                1,
                step=0.05,
                label="Encoder stage: share that stays inside the vision encoder (1: no stage)",
            )
            cue = gr.Slider(
                0,
                1,
                0,
                step=0.05,
                interactive=False,
                label="Question cue: share of the question in the choice",
                info="For methods that take one.",
            )
        self._keep = keep
        self._settings = [method, keep, merge, mass, encoder, cue]
        self._given = [self._image, self._question, *self._settings]
        quick: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
        gr.on(
            [samples.input],
            self._sample,
            samples,
            [self._image, self._question],
            **PRIVATE,
            **quick,
        )
        gr.on([method.input], _able, method, [method, merge, mass, cue], **PRIVATE, **quick)

    def _sample(self, name: str) -> tuple[str, str]:
        question = SAMPLES[name] if self._loaded.embedded else ANYTHING
        return str(demo.SAMPLES_DIR / f"{name}.jpg"), question

    def _ask(self) -> None:
        button = gr.Button("Ask", variant="primary")
        with gr.Row():
            full = gr.Textbox(label="Answer with all tokens", interactive=False, lines=2)
            cut = gr.Textbox(label="Answer with the kept tokens", interactive=False, lines=2)
        drawn = _html(overlay.POINTED)
        token = gr.Dropdown(
            [],
            label="Kept token: the patches that it stands for (or point at the image)",
            visible=False,
        )
        results = _html()
        state = gr.State(None, time_to_live=CLEAN_AFTER)

        @self._told
        def ask(
            event: gr.EventData, path: str | None, question: str, *settings: Any
        ) -> Iterator[dict[Any, Any]]:
            if event.target is self._keep and not (path and question.strip()):
                return  # who has nothing to ask yet only moved the slider
            picture: Picture | None = None
            yield {full: "", cut: "", drawn: "", results: ""}
            yield {state: None, token: gr.update(visible=False)}
            for step in asked.ask(self._loaded, path, question, _wanted(*settings)):
                made: dict[Any, Any] = {
                    full: step.full,
                    cut: step.pruned,
                    self._note: _status(step.doing),
                    results: step.figures + step.times,
                }
                if step.picture is not None and picture is None:
                    picture = step.picture
                    made |= {
                        drawn: _drawn(picture),
                        state: picture,
                        token: gr.update(choices=_choices(picture), value=None, visible=True),
                    }
                yield made

        # One listener, so that one question at a time has this part of the page.
        gr.on(
            [button.click, self._question.submit, self._keep.release],
            ask,
            self._given,
            [self._note, full, cut, drawn, token, results, state],
            **PRIVATE,
            **WORK,
        )
        gr.on(
            [token.input],
            _look,
            [state, token],
            [drawn],
            **PRIVATE,
            queue=False,
            show_progress="hidden",
        )

    def _compare(self) -> None:
        methods = gr.Dropdown(
            list(summaries()),
            value=COMPARED,
            multiselect=True,
            max_choices=asked.MOST,
            label=f"Methods, up to {asked.MOST}, at the keep and with the settings on the left",
        )
        button = gr.Button("Compare", variant="primary")
        out = _html(overlay.POINTED)

        @self._told
        def compare(
            methods: list[str], path: str | None, question: str, *settings: Any
        ) -> Iterator[dict[Any, Any]]:
            yield {out: ""}
            wanted = _wanted(*settings)
            for row in asked.compare(self._loaded, path, question, wanted, methods or []):
                yield {out: row}

        gr.on(
            [button.click],
            compare,
            [methods, *self._given],
            [self._note, out],
            **PRIVATE,
            **WORK,
        )

    def _sweep(self) -> None:
        keeps = ", ".join(f"{keep:g}" for keep in asked.KEEPS)
        gr.HTML(f"<p>The method and settings on the left, at keep {keeps}.</p>")
        button = gr.Button("Sweep", variant="primary")
        out = _html()

        @self._told
        def sweep(path: str | None, question: str, *settings: Any) -> Iterator[dict[Any, Any]]:
            yield {out: ""}
            for swept in asked.sweep(self._loaded, path, question, _wanted(*settings)):
                yield {out: swept.html()}

        gr.on(
            [button.click],
            sweep,
            self._given,
            [self._note, out],
            **PRIVATE,
            **WORK,
        )


def _streams(loaded: Loaded) -> None:
    """A clip or the camera, frame by frame."""
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            question = gr.Textbox(
                label="Question",
                value="How many things are there?" if loaded.embedded else ANYTHING,
                max_length=2000,
            )
            method = gr.Dropdown(
                list(watching.METHODS),
                value="otprune" if loaded.embedded else "stream",
                label="Method",
            )
            low, high = watching.RATES
            rate = gr.Slider(low, high, 16, step=1, label="Tokens that stay of a frame")
            with gr.Tabs():
                with gr.Tab("Clip"):
                    clip = gr.File(
                        label="Clip (MP4, MOV, WebM, MKV or AVI)",
                        file_types=["video", ".mkv", ".avi"],
                        type="filepath",
                        height=140,
                    )
                    sample = gr.Button("Use the sample clip")
                    every = gr.Slider(0.1, 5, 0.5, step=0.1, label="A frame every so many seconds")
                    with gr.Row():
                        start = gr.Button("Watch", variant="primary")
                        stop = gr.Button("Stop")
                with gr.Tab("Camera"):
                    gr.HTML("<p>The camera's frames are sent to the machine of this page.</p>")
                    image = gr.Image(
                        label="Camera",
                        sources=["webcam"],
                        streaming=True,
                        type="filepath",
                        image_mode=None,
                    )
                    camera = _unread(image)
        with gr.Column(scale=3, min_width=300):
            note = _html()
            answer = gr.Textbox(label="Answer now", interactive=False)
            drawn, says = _html(), _html()
    outputs = [note, answer, drawn, says]
    session = gr.State(None, delete_callback=_ended, time_to_live=CLEAN_AFTER)

    def shown(frame: watching.Frame) -> dict[Any, Any]:
        return {
            answer: frame.answer,
            drawn: overlay.svg(frame.picture, "The newest frame with its kept patches"),
            says: f"<p>{escape(frame.says)}</p>",
        }

    @told(note)
    def watch(
        run: _Run, path: str | None, question: str, method: str, rate: float, every: float
    ) -> Iterator[dict[Any, Any]]:
        run.goes_on = True
        for frame in watching.clip(loaded, path, question, method, rate, every):
            if not run.goes_on:
                return
            yield shown(frame)

    def see(
        path: str | None, question: str, method: str, rate: float, before: _Camera | None
    ) -> dict[Any, Any]:
        if path is None:
            return {session: before}
        try:
            wanted = (question, method, rate)
            if before is None or before.wanted != wanted:
                _ended(before)
                before = _Camera(watching.Watched(loaded, *wanted), wanted)
            image, _ = asked.read(path)
            return {note: "", session: before, **shown(before.watched.see(image, None))}
        except Exception as error:
            return {note: _message(error), session: before}

    run = gr.State(_Run())
    given = [run, clip, question, method, rate, every]
    start.click(watch, given, outputs, **PRIVATE, **MODEL)
    gr.on([stop.click], _stop, run, None, queue=False, **PRIVATE)
    gr.on([sample.click], lambda: str(demo.CLIP), None, clip, queue=False, **PRIVATE)
    camera.stream(
        see,
        [camera, question, method, rate, session],
        [note, answer, drawn, says, session],
        stream_every=0.5,
        time_limit=None,
        concurrency_id="camera",
        concurrency_limit=AT_ONCE,
        show_progress="hidden",
        **PRIVATE,
    )


class _Run:
    """Whether a visitor's clip goes on. gradio's own way to cancel can lose what else is asked."""

    def __init__(self) -> None:
        self.goes_on = True


def _stop(run: _Run) -> None:
    run.goes_on = False


class _Camera:
    """A visitor's session, and the settings that it was made for."""

    def __init__(self, watched: watching.Watched, wanted: tuple[str, str, float]) -> None:
        self.watched, self.wanted = watched, wanted


def _ended(camera: _Camera | None) -> None:
    if camera is not None:
        camera.watched.close()


def _html(script: str | None = None) -> gr.HTML:
    return gr.HTML(apply_default_css=False, elem_classes=["otp-html"], js_on_load=script)


def _wanted(
    method: str, keep: float, merge: bool, mass: Any, encoder_keep: float, question: float
) -> Wanted:
    return Wanted(method, keep, merge, mass, encoder_keep, question)


def _able(method: str) -> tuple[Any, Any, Any, Any]:
    """What a method is, and what can be set beside it."""
    settled = method == RECOMMENDED
    off = {"interactive": not settled}
    merge = gr.update(value=False, **off) if settled else gr.update(**off)
    mass = gr.update(value="none", **off) if settled else gr.update(**off)
    heard = hears(method)
    cue = gr.update(interactive=True) if heard else gr.update(interactive=False, value=0)
    return gr.update(info=summaries().get(method)), merge, mass, cue


def _choices(picture: Picture) -> list[tuple[str, int]]:
    return [
        (f"{place + 1}: {picture.where(place)} ({picture.count(place)} tokens)", place)
        for place in range(len(picture.kept))
    ]


def _look(picture: Picture | None, place: int | None) -> str:
    """The picture with the cell of one kept token, and what that stands for."""
    if picture is None:
        return ""
    return _drawn(picture, place)


def _drawn(picture: Picture, place: int | None = None) -> str:
    return overlay.svg(picture, PICTURE, place) + f"<p>{escape(picture.summary)}</p>"


def _status(doing: str) -> str:
    return f"<p class='otp-soft' role='status'>{escape(doing)} ...</p>" if doing else ""
