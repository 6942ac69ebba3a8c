"""Expected seconds of each case on a H100-class card, counted from operations and bytes.

Not measured: rates below are what such a card reaches in practice, about half of its data sheet.
They decide what is started before a run's minutes are over (`runs.deadline`, which corrects them by
what cases really took), and `--dry-run` prints them. On a CPU they mean nothing.
"""

from __future__ import annotations

from otprune_bench.gpu.plan import (
    DTYPES,
    ENCODER,
    EXACT,
    EXACT_GRAPH,
    FLASH,
    GRAM,
    OTHERS,
    PUBLISHED,
    SKETCHED,
    SKETCHED_GRAPH,
    STAGED,
    TRITON,
    Model,
    Plan,
    Point,
)

FLOAT32 = 40e12  # operations a second without TF32
BFLOAT16 = 350e12
MEMORY = 2e12  # bytes a second
ONE = 60e9  # bytes a second that a single multiprocessor reads
PROCESSORS = 132
LAUNCH = 8e-6  # seconds for the host to launch a kernel through torch
REPLAY = 3e-6  # seconds of a small kernel inside a graph
STEP = 40e-3  # seconds of the host for one step of a 7B model, launch by launch
WINDOW = 80e-6  # seconds of the host for one window of attention under sdpa
CASE = 0.3  # around every case
COMPILE = 4.0  # seconds for Triton to compile one size
GRAPH = 2.0  # seconds to capture one, its calls before included, beyond the calls themselves

# Parameters, layers and widths of what is run at 7B: (language, layers, hidden, encoder).
_SEVEN = {
    "LLaVA-1.5-7B": (6.6e9, 32, 4096, 0.3e9),
    "Qwen2.5-VL-7B": (7.1e9, 28, 3584, 0.63e9),
}
_SMALL = (1e6, 2, 64, 1e6)


def selection(name: str, point: Point) -> float:
    """Seconds of one call of a contender."""
    B, m, d, k = point
    read = 4 * B * m * d / MEMORY
    square = m <= d
    r = min(m, d)
    gram = 2 * B * m * m * d / FLOAT32
    if name == GRAM:
        return gram + LAUNCH
    if name == PUBLISHED:
        products = 2 * m * m * (d + m) / FLOAT32
        picks = k * (14 * LAUNCH + 4e-5 + 4 * m * k / 2 / MEMORY)
        return B * (products + picks + 6 * 4 * m * d / MEMORY)
    if name in OTHERS:
        per = 4 * B * m * (m if name in ("transport", "divprune") else d + k) / MEMORY
        passes = 3 if name == "transport" else 1
        return 6 * read + gram + k * (11 * LAUNCH + passes * per)
    sketched = name in (SKETCHED, SKETCHED_GRAPH)
    if sketched:
        r, square = min(256, r), m <= min(256, d)
    products = 2 * B * m * r * (d if square else 2 * r) / FLOAT32
    before = 8 * read + products + 30 * LAUNCH
    if name == TRITON:
        return before + -(-B // PROCESSORS) * k * (4 * m * (r + k / 2) / ONE + 4e-6)
    launch = REPLAY if name in (EXACT_GRAPH, SKETCHED_GRAPH) else LAUNCH
    return before + k * (11 * launch + 4 * B * m * (r + k) / MEMORY)


def run_seconds(once: float, plan: Plan) -> float:
    """Of a contender's warm-up and rounds."""
    rounds = max(3, min(plan.repeats, int(plan.patience / once)))
    return (3 + rounds) * once


def left_out(name: str, point: Point, plan: Plan) -> str | None:
    """Why a contender is not run at a size, for its time or memory there; None if it is."""
    once = selection(name, point)
    if once > plan.patience:
        return f"expected {once:.3g} s a call"
    return None


def needed_bytes(name: str, point: Point) -> int:
    """Memory that a contender takes at most beyond its tokens, roughly."""
    B, m, d, k = point
    pairs = 4 * m * m
    if name == PUBLISHED:
        return 4 * pairs + 4 * 4 * m * d
    if name in OTHERS:
        return B * (3 * pairs + 4 * 4 * m * (d + k))
    r = min(256, m, d) if name in (SKETCHED, SKETCHED_GRAPH) else min(m, d)
    whole = B * (4 * 4 * m * (r + k) + 3 * 4 * m * d)
    return 2 * whole if name in (EXACT_GRAPH, SKETCHED_GRAPH) else whole


def expected(plan: Plan, contenders: tuple[str, ...]) -> dict[str, float]:
    """Seconds of every case by the beginning of its key; the longest that fits counts."""
    found = {
        "card": 3.0,
        "check/": 2.0,
        "check/same as the CPU/": 1.0 + 0.5 * len(DTYPES),
        "check/goldens": 6.0,
        "check/no wait": 3.0,
        "check/Triton": 3 * COMPILE + 4.0,
        "check/CUDA graph": 14.0,
        "check/torch.compile": 45.0,
        "check/model/": 6.0,
        "check/model/embedded": 20.0,  # with the import of transformers
        "kernel/": 3.0,
        "kernel/Triton": COMPILE + 1.0,
    }
    for point in plan.points:
        names = [name for name in contenders if left_out(name, point, plan) is None]
        seconds = sum(run_seconds(selection(name, point), plan) for name in names)
        seconds += COMPILE * (TRITON in names)
        seconds += GRAPH * (EXACT_GRAPH in names) + GRAPH * (SKETCHED_GRAPH in names)
        found[f"select/{point.name}"] = CASE + seconds
    found["select/frames"] = 3.0
    for model in plan.models:
        for attention in plan.attentions:
            for batch in model.batches:
                found |= _of_model(plan, model, attention, batch)
    return found


def seconds_of(key: str, table: dict[str, float]) -> float:
    """What `expected` says of a case."""
    return table[max((start for start in table if key.startswith(start)), key=len)]


def _of_model(plan: Plan, model: Model, attention: str, batch: int) -> dict[str, float]:
    language, layers, hidden, encoder = _SEVEN.get(model.name, _SMALL)
    patches = batch * model.patches
    encode = 2 * encoder * patches / BFLOAT16 + STEP
    if model.shape.startswith("QWEN"):
        encode += 4 * 4 * batch * model.patches**2 * 1280 / BFLOAT16
        if attention != FLASH:  # sdpa takes the windows one by one
            encode += 28 * batch * (model.patches / 64) * WINDOW
    # The first case of a model builds it; which one that is depends on what was run before.
    build = 10.0 if attention != FLASH and batch == model.batches[0] else 0.0
    made = {model.key(attention, batch, ENCODER): CASE + 4 * encode + build}
    whole = plan.repeats_of_models if batch == 1 else 0
    for keep in (1.0, 0.5, 0.25, 0.098):
        n = round(keep * model.visual) + 47
        prefill = 2 * language * n * batch / BFLOAT16 + STEP
        prefill += 4 * layers * hidden * n * n * batch / BFLOAT16
        select = selection(EXACT, Point(batch, model.visual, hidden, round(keep * model.visual)))
        select = 0.0 if keep == 1.0 else select
        step = STEP + 2 * language / MEMORY
        runs = (2 + plan.repeats_of_models) * (prefill + select) + plan.new * step
        runs += whole * (encode + prefill + select)
        made[model.key(attention, batch, keep)] = CASE + runs
    made[model.key(attention, batch, STAGED)] = CASE + (2 + plan.repeats_of_models) * (
        encode + STEP + prefill + 0.1
    )
    return made
