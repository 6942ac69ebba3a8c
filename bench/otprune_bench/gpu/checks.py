"""Part `check`: what a device chooses is what the CPU chooses, in every way of asking it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otprune.errors import MissingDependencyError, UnsupportedError
from otprune.greedy import logdet as search
from otprune.greedy import ties
from otprune.greedy.logdet import sequential
from otprune.measures.logdet import kernel_norms
from otprune.numerics.lowrank import LowRank
from otprune.selectors import Cues, DPPPrune, OTPrune, SimplexPrune, TransportPrune
from otprune.streaming.stream import StreamSelector
from otprune.streaming.video import select_video
from otprune_bench.gpu.choices import Compared, compare, together
from otprune_bench.gpu.plan import DTYPES, Plan
from otprune_bench.methods import TOKENS_ALONE
from otprune_bench.runs.cases import Case
from otprune_bench.runs.deadline import SkipError
from otprune_bench.timing.device import captured
from otprune_bench.timing.race import make_tokens

GOLDEN = Path(__file__).resolve().parents[3] / "tests" / "golden" / "selections.json"
_WORDS = 5  # of a question
_SHARE = 0.8


def selectors(k: int) -> dict[str, Any]:
    """Every method that needs the tokens alone, and ours with a share for question or saliency."""
    found: dict[str, Any] = {name: method(k) for name, method in TOKENS_ALONE.items()}
    found["otprune, sketched"] = OTPrune(k, rank="auto")
    for name, method in {
        "otprune": OTPrune,
        "transport": TransportPrune,
        "dpp": DPPPrune,
        "simplex": SimplexPrune,
    }.items():
        found[f"{name}, question"] = method(k, question=_SHARE)
        found[f"{name}, saliency"] = method(k, saliency=_SHARE)
    return found


def on_device(k: int) -> dict[str, Any]:
    """The same with the Triton kernel, where Triton is; and without what is drawn on the host."""
    found = selectors(k)
    del found["random"]
    try:
        triton_kernel()
    except SkipError:
        return found
    return {**found, "otprune, Triton": OTPrune(k, backend="triton")}


def cases(plan: Plan) -> Iterator[Case]:
    """In the order of what matters most."""
    yield "check/goldens", partial(_goldens, plan)
    for name, selector in selectors(plan.checked.k).items():
        yield f"check/same as the CPU/{name}", partial(_same, plan, selector)
    yield "check/several sizes at once", partial(_several, plan)
    yield "check/masses and merging", partial(_merged, plan)
    yield "check/no wait in the search", partial(_waits, plan)
    yield "check/Triton kernel", partial(_triton, plan)
    yield "check/CUDA graph", partial(_graphs, plan)
    yield "check/TF32", partial(_tf32, plan)
    yield "check/frames", partial(_frames, plan)


def late_cases(plan: Plan) -> Iterator[Case]:
    """What takes longest; after the models' checks."""
    yield "check/torch.compile", partial(_compiled, plan)


def cues_for(selector: Any, tokens: Tensor, seed: int) -> Cues:
    """What a selector needs, made up on the CPU: `(B, ...)`."""
    g = torch.Generator().manual_seed(seed)
    batch, m, d = tokens.shape
    question = torch.randn(batch, _WORDS, d, generator=g) + tokens[:, :_WORDS].cpu().float()
    known = Cues(saliency=torch.rand(batch, m, generator=g).square(), question=question)
    return known.only(selector.needs)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Matrix products and convolutions of float32 in TensorFloat32, or not.

    torch allows it in convolutions unless told otherwise.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def _tokens(plan: Plan, seed: int = 0) -> Tensor:
    batch, m, d, _ = plan.checked
    return make_tokens(batch, m, d, plan.seed + seed)


def _moved(cues: Cues, plan: Plan) -> Cues:
    return cues.each(lambda x: x.to(plan.device))


def _same(plan: Plan, selector: Any) -> dict[str, Any]:
    """In each dtype: the batch beside the CPU in float32, and beside its rows one by one."""
    made, rows = [], []
    whole = _tokens(plan)
    for name in DTYPES:
        rounded = whole.to(getattr(torch, name))
        cues = cues_for(selector, whole, plan.seed)
        expected = selector.select(rounded.float(), cues=cues)
        there, known = rounded.to(plan.device), _moved(cues, plan)
        found = selector.select(there, cues=known)
        made.append(compare(selector, rounded, cues, expected, found, f"{name}, CPU and device,"))
        single = torch.stack(
            [
                selector.select(there[b], cues=known.each(lambda x, b=b: x[b]))  # type: ignore[misc]
                for b in range(len(there))
            ]
        )
        rows.append(compare(selector, rounded, cues, single, found, f"{name}, rows and batch,"))
    return together([*made, *rows])


def _several(plan: Plan) -> dict[str, Any]:
    """Sets of several sizes in one call, at a ratio and as many as each needs."""
    _, m, d, _ = plan.checked
    sets = [make_tokens(1, size, d, plan.seed + size)[0] for size in (m, m - 3, m // 2, m)]
    there = [x.to(plan.device) for x in sets]
    made = []
    for keep in (0.2, "auto"):
        for selector in (OTPrune(keep), TransportPrune(keep)):
            found, expected = selector.select_each(there), selector.select_each(sets)
            for x, ours, theirs in zip(sets, found, expected, strict=True):
                where = f"{selector.name}, keep {keep}, {len(x)} tokens,"
                made.append(compare(selector, x[None], Cues(), theirs[None], ours[None], where))
    return together(made)


def _merged(plan: Plan) -> dict[str, Any]:
    """`reduce` with merging: masses and features beside the CPU's, where the same is kept."""
    shown, agrees = {}, True
    tokens = _tokens(plan)
    for name in ("otprune", "transport", "dpp"):
        selector = selectors(plan.checked.k)[name]
        host = selector.reduce(tokens, merge=True)
        device = selector.reduce(tokens.to(plan.device), merge=True)
        masses = device.masses.cpu().float() - host.masses.float()
        features = (device.features.cpu() - host.features).abs().max() / host.features.abs().max()
        shown[name] = {
            "same tokens kept": device.indices.cpu().equal(host.indices),
            "masses differ by at most": float(masses.abs().max()),
            "features by": float(features),
        }
        agrees &= shown[name]["same tokens kept"] is True and float(features) < 1e-4
    return {"agrees": agrees, "methods": shown}


def golden_tokens(case: dict[str, Any]) -> Tensor:
    """The tokens of a golden case, `(m, d)` float32; tests/golden/README.md says how."""
    g, m, d = np.random.default_rng(case["seed"]), case["m"], case["d"]

    def normal(*shape: int) -> Any:
        return g.standard_normal(shape, dtype=np.float32)

    if case["kind"] == "normal":
        return torch.from_numpy(normal(m, d))
    r = min(m, d, 200)
    falling = (np.arange(1, r + 1) ** -0.7).astype(np.float32)
    left, right = normal(m, r) * falling, normal(r, d)
    return torch.from_numpy(left @ right + normal(1, d) + np.float32(0.1) * normal(m, d))


def _goldens(plan: Plan) -> dict[str, Any]:
    if not GOLDEN.exists():
        raise SkipError("tests/golden/selections.json is in a checkout of the repository alone")
    made = []
    for case in json.loads(GOLDEN.read_text()):
        if plan.quick and case["m"] > 64:
            continue
        tokens, selector = golden_tokens(case)[None], OTPrune(case["k"], gamma=0.01)
        found = selector.select(tokens.to(plan.device))
        where = f"({case['m']}, {case['d']}, {case['k']})"
        kept = torch.tensor([case["kept"]])
        made.append(compare(selector, tokens, Cues(), kept, found, where))
    return together(made)


def _on_gpu(plan: Plan, what: str) -> None:
    if plan.device != "cuda":
        raise SkipError(f"{what} needs a CUDA device")


@contextmanager
def syncs(mode: str) -> Iterator[None]:
    """`torch.cuda.set_sync_debug_mode` inside, the default afterwards."""
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _waits(plan: Plan) -> dict[str, Any]:
    """The search never waits for the device; `select` waits where it checks for NaN."""
    _on_gpu(plan, "counting where the host waits")
    k, tokens = plan.checked.k, _tokens(plan).to(plan.device)
    found: dict[str, Any] = {}
    waited = []
    for name, selector in on_device(k).items():
        cues = _moved(cues_for(selector, tokens, plan.seed), plan)
        known = cues.checked(tokens)
        pick = partial(selector.pick, tokens, k, known)
        with torch.no_grad():
            pick()  # libraries are set up at their first call
            try:
                with syncs("error"):
                    pick()
            except RuntimeError as error:
                waited.append(f"{name}: {' '.join(str(error).split())[:200]}")
        with warnings.catch_warnings(record=True) as said, syncs("warn"):
            warnings.simplefilter("always")
            selector.select(tokens, cues=cues)
        found[name] = sum("called a synchronizing" in str(one.message) for one in said)
    return {"agrees": not waited, "waited": waited, "waits of select": found}


def triton_kernel() -> Any:
    """The module of the Triton kernel.

    Raises:
        SkipError: Triton is not installed.
    """
    try:
        from otprune.greedy.logdet import triton_kernel as found
    except MissingDependencyError as cause:
        raise SkipError("Triton is not installed") from cause
    return found


def _triton(plan: Plan) -> dict[str, Any]:
    """In one launch, pick by pick, and in rounds on the CPU; also sets of several sizes at once."""
    kernel = triton_kernel()
    made = []
    batch, m, d, k = plan.checked
    try:
        for size, width in ((m, d), (m - 1, d), (m // 2, d // 8)):
            tokens = make_tokens(batch, size, width, plan.seed)
            count = min(k, size - 1)
            selector = OTPrune(count)
            gamma = selector.gamma_for(size, width)
            K, norms = kernel_norms(tokens.to(plan.device), gamma)
            rank = ties.preference(norms)
            one = kernel.greedy(K, count, rank, 1.0).sort().values
            steps = sequential.greedy(K, count, rank, 1.0).sort().values
            host, its = kernel_norms(tokens, gamma)
            rounds = search.greedy(host, count, ties.preference(its), 1.0).sort().values
            for name, other in (("pick by pick", steps), ("the CPU", rounds)):
                where = f"({size}, {width}, {count}), one launch and {name},"
                made.append(compare(selector, tokens, Cues(), other, one, where))
        made.append(_several_sizes(plan, kernel))
    except UnsupportedError as cause:
        raise SkipError(str(cause)) from cause
    return together(made)


def _several_sizes(plan: Plan, kernel: Any) -> Compared:
    """Padded to one size, each set is chosen from as if it were alone."""
    _, m, d, k = plan.checked
    sizes, counts = [m, m // 2, m - 3], [k, max(1, k // 2), k]
    alone = [make_tokens(1, size, d, plan.seed + size) for size in sizes]
    made = [kernel_norms(x.to(plan.device), OTPrune(1).gamma_for(*x.shape[1:])) for x in alone]
    width = max(K.left.shape[-1] for K, _ in made)
    left, right = (torch.zeros(len(sizes), m, width, device=plan.device) for _ in range(2))
    rank = torch.zeros(len(sizes), m, dtype=torch.int64, device=plan.device)
    for b, (K, norms) in enumerate(made):
        part = slice(sizes[b]), slice(K.left.shape[-1])
        left[b][part], right[b][part] = K.left[0], K.right[0]
        rank[b, : sizes[b]] = ties.preference(norms)[0]
    lengths, wanted = (torch.tensor(x, device=plan.device) for x in (sizes, counts))
    found = kernel.greedy(LowRank(left, right), k, rank, 1.0, lengths, wanted)
    return together(
        compare(
            OTPrune(n),
            x,
            Cues(),
            OTPrune(n).select(x),
            row[:n].sort().values[None],
            f"{x.shape[1]} of {m} places,",
        )
        for row, n, x in zip(found, counts, alone, strict=True)
    )


def _graphs(plan: Plan) -> dict[str, Any]:
    """A captured `select` replays to the same tokens, and on new values to the new ones."""
    _on_gpu(plan, "a CUDA graph")
    made, failed = [], []
    k = plan.checked.k
    first, second = (_tokens(plan, seed).to(plan.device) for seed in (0, 1))
    for name, selector in on_device(k).items():
        cues = _moved(cues_for(selector, first, plan.seed), plan)
        given = first.clone()
        eager = [selector.select(x, cues=cues) for x in (first, second)]
        try:
            replay, kept = captured(partial(selector.select, given, cues=cues))
        except Exception as error:  # a capture that fails must not end the others
            failed.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
            torch.cuda.synchronize()
            continue
        for values, expected, said in ((first, eager[0], "same"), (second, eager[1], "new")):
            given.copy_(values)
            replay()
            torch.cuda.synchronize()
            where = f"{name}, replayed on {said} values,"
            made.append(compare(selector, values, cues, expected, kept.clone(), where))
    found = together(made)
    return {**found, "failed to capture": failed, "agrees": found["agrees"] and not failed}


def _compiled(plan: Plan) -> dict[str, Any]:
    """`torch.compile` gives the same tokens as a plain call on the same device."""
    k, tokens = plan.checked.k, _tokens(plan).to(plan.device)
    backend = "inductor" if plan.device == "cuda" else "eager"
    names = ("norm",) if plan.quick else ("norm", "otprune, sketched", "transport")
    made = []
    for name in names:
        selector = selectors(min(k, 8))[name]  # each pick is unrolled
        torch._dynamo.reset()
        compiled: Callable[[Tensor], Tensor] = torch.compile(
            lambda x, chosen=selector: chosen.select(x),  # type: ignore[misc]
            fullgraph=True,
            backend=backend,
        )
        found, expected = compiled(tokens), selector.select(tokens)
        made.append(compare(selector, tokens, Cues(), expected, found, f"{name}, {backend},"))
    torch._dynamo.reset()
    return {**together(made), "backend": backend}


def _tf32(plan: Plan) -> dict[str, Any]:
    """What a caller's TF32 changes. Not required to be the same: shown, and how much it costs."""
    k, whole = plan.checked.k, _tokens(plan)
    there, shown = whole.to(plan.device), {}
    for name in ("otprune", "otprune, sketched", "transport", "dpp", "divprune"):
        selector = selectors(k)[name]
        with tf32(False):
            off = selector.select(there)
        with tf32(True):
            on = selector.select(there)
        both = compare(selector, whole, Cues(), off, on, "TF32 off and on,")
        losses = [tie["relative"] for tie in both["ties"] if tie["relative"] is not None]
        common = [
            len(set(a.tolist()) & set(b.tolist())) / k
            for a, b in zip(off.cpu(), on.cpu(), strict=True)
        ]
        shown[name] = {
            "equal": both["equal"],
            "sets": both["sets"],
            "least in common": min(common),
            "relative": min(losses, default=0.0, key=lambda x: -abs(x)),
        }
    return {"agrees": True, "methods": shown}


def _frames(plan: Plan) -> dict[str, Any]:
    """`select_video` and a `StreamSelector` on the device and on the CPU."""
    count, m, d = plan.frames
    frames = make_tokens(count, m, d, plan.seed)
    budget = max(count, count * m // 10)
    there = frames.to(plan.device)
    video = [
        [x.cpu().tolist() for x in select_video(some, budget, floor=1)] for some in (frames, there)
    ]
    streams = []
    for some in (frames, there):
        stream = StreamSelector(rate=max(1, m // 10))
        streams.append([stream.push(x).cpu().tolist() for x in some])
    parts: dict[str, Any] = {}
    for name, (host, device) in (("select_video", video), ("StreamSelector", streams)):
        same = sum(a == b for a, b in zip(host, device, strict=True))
        both = sum(len(set(a) & set(b)) for a, b in zip(host, device, strict=True))
        most = max(sum(map(len, host)), sum(map(len, device)), 1)
        parts[name] = {"equal frames": same, "frames": count, "tokens in common": both / most}
    # Its rules break near ties by rounding, and one frame's choice changes the later ones.
    return {"agrees": all(x["tokens in common"] >= 0.95 for x in parts.values()), **parts}
