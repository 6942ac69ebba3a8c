"""M-RoPE positions of a pruned prompt: those of the whole prompt, however it is cut into steps."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from otprune import OTPrune
from otprune.engines.vllm.rows import Asked, Plan, write
from otprune.engines.vllm.selection import Kept

pytestmark = pytest.mark.vllm

TEXT, START, END = 5, 8, 9
TOKEN = {"image": 6, "video": 7}
SECONDS, STEPS = 0.625, 4  # 2.5 steps of time from frame to frame
CONFIG = SimpleNamespace(
    image_token_id=TOKEN["image"],
    video_token_id=TOKEN["video"],
    vision_start_token_id=START,
    vision_end_token_id=END,
    vision_config=SimpleNamespace(spatial_merge_size=2, tokens_per_second=STEPS),
)


@pytest.fixture(scope="module", params=["Qwen2VL", "Qwen2_5_VL", "Qwen3VL"])
def model(environment, request):
    """As much of a model as places tokens."""
    from otprune.engines.vllm.models import pruned

    made = object.__new__(pruned(f"{request.param}ForConditionalGeneration"))
    made.config, made.places_tokens = CONFIG, True
    return made


@dataclass(frozen=True)
class Image:
    """An image or video of a prompt.

    grid: frames, rows and columns of its tokens.
    kept: places of the kept tokens of each of its sets: one, or one for each frame.
    text: tokens of text in front of it.
    """

    modality: str
    grid: tuple[int, int, int]
    kept: list[list[int]]
    text: int

    @property
    def m(self):
        t, h, w = self.grid
        return t * h * w // len(self.kept)

    def runs(self, whole):
        """Which of its tokens stand in the prompt, set by set."""
        return [list(range(self.m))] * len(self.kept) if whole else self.kept

    @property
    def arguments(self):
        """What the encoder gets besides pixels."""
        t, h, w = self.grid
        made = {f"{self.modality}_grid_thw": torch.tensor([t, 2 * h, 2 * w])}
        if self.modality == "video":
            made["second_per_grid_ts"] = torch.tensor(SECONDS)
        return made


@st.composite
def images(draw, apart):
    """Some, `apart` if there is text between the frames of a video."""
    made = []
    for modality in draw(st.lists(st.sampled_from(["image", "video"]), min_size=1, max_size=3)):
        t, h, w = (draw(st.integers(1, 4)) for _ in range(3))
        t = t if modality == "video" else 1
        sets = t if apart else 1
        m = t * h * w // sets
        k = draw(st.integers(1, m))
        kept = [sorted(draw(st.permutations(range(m)))[:k]) for _ in range(sets)]
        made.append(Image(modality, (t, h, w), kept, draw(st.integers(0, 3))))
    return made


def prompt(some, apart, whole):
    """Ids, vLLM's features, and which tokens of the whole prompt stand in the pruned one."""
    from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange

    ids, features, stays = [], [], []
    for image in some:
        token = TOKEN[image.modality]
        part = []
        stays += [True] * (image.text + 1)
        for places, run in zip(image.kept, image.runs(whole), strict=True):
            inside = [place in places for place in run]
            stamped = apart and image.modality == "video"
            part += [TEXT, START, *[token] * len(run), END] if stamped else [token] * len(run)
            stays += [True, True, *inside, True] if stamped else inside
        ids += [TEXT] * image.text + [START]
        row = write(Plan(len(image.kept), image.m, Asked(OTPrune(len(run)))))
        data = {name: SimpleNamespace(data=x) for name, x in image.arguments.items()}
        data["otprune"] = SimpleNamespace(data=row)
        place = PlaceholderRange(len(ids), len(part), torch.tensor([x == token for x in part]))
        features.append(MultiModalFeatureSpec(data, image.modality, "", place))
        ids += [*part, END]
        stays.append(True)
    return ids, features, torch.tensor(stays)


def embeddings(model, some):
    """What leaves the encoder for the images of a pruned prompt, one after the other."""
    made = []
    for image in some:
        indices = torch.tensor(image.kept).flatten()
        rows = torch.ones(len(indices), 2, dtype=torch.bfloat16)
        arguments = {name: x[None] for name, x in image.arguments.items()}
        made += model._placed([rows], [Kept(indices, rows, torch.zeros(len(rows)))], arguments)
    return torch.cat(made)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_positions_are_those_of_the_whole_prompt(model, data):
    apart = "Qwen3" in type(model).__qualname__
    some = data.draw(images(apart))
    full, whole, stays = prompt(some, apart, whole=True)
    ids, features, _ = prompt(some, apart, whole=False)
    wanted, behind = model.get_mrope_input_positions(full, whole)
    wanted = wanted[:, stays]
    positions, delta = model.get_mrope_input_positions(ids, features)
    assert delta + len(ids) == behind + len(full)

    visual = torch.tensor([x in TOKEN.values() for x in ids])
    made = embeddings(model, some)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(ids) - 1), max_size=4)))
    steps = list(zip([0, *cuts], [*cuts, len(ids)], strict=True))
    for begin, end in steps * 2:  # a preempted request is computed again
        first, last = int(visual[:begin].sum()), int(visual[:end].sum())
        here = [made[first:last]] if last > first else []
        back, positions, delta = model.recompute_mrope_positions(ids, here, positions, begin)
        assert [x.shape[1] for x in back] == [2] * len(here)
        assert torch.equal(positions[:, :end], wanted[:, :end])
        assert delta + len(ids) == behind + len(full)


class Kept32:
    """Where the runner for GPUs keeps the positions of its prompts: int32, with room for more."""

    def __init__(self, positions):
        self.rows = [F.pad(x, (0, 5)).int() for x in positions]
        self.deltas = {}

    def read_prefill_positions(self, request, length):
        return self.rows[request][:, :length]

    def update_prefill_positions(self, request, positions, delta):
        self.rows[request][:, : positions.shape[1]].copy_(positions)
        self.deltas[request] = delta


@pytest.mark.parametrize("step", [1, 3, 50])
def test_the_second_runner_for_gpus_takes_them_over(model, step):
    """vLLM's own `MultiModalPruner` (Model Runner V2), with two prompts in each step."""
    from vllm.v1.worker.gpu.model_states.mm_pruning import MultiModalPruner

    apart = "Qwen3" in type(model).__qualname__
    tall = Image("image", (1, 4, 2), [[1, 2, 7]], 2)
    wide = Image("image", (1, 2, 3), [[0, 5]], 1)
    asked = [prompt(some, apart, whole=False) for some in ([tall, wide], [wide])]
    starts = [model.get_mrope_input_positions(ids, features) for ids, features, _ in asked]
    rope = Kept32([positions for positions, _ in starts])
    features = {str(i): found for i, (_, found, _) in enumerate(asked)}
    pruner = MultiModalPruner(model, rope, SimpleNamespace(mm_features=features), 2)
    longest = max(len(ids) for ids, _, _ in asked)
    tokens = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _, _ in asked])
    states = SimpleNamespace(all_token_ids=SimpleNamespace(gpu=tokens))
    encoded = [[embeddings(model, [x]) for x in some] for some in ([tall, wide], [wide])]
    lengths = [len(ids) for ids, _, _ in asked]
    for begin in range(0, longest, step):
        there = [i for i, length in enumerate(lengths) if begin < length]
        count = [min(step, lengths[i] - begin) for i in there]
        batch = SimpleNamespace(
            req_ids=[str(i) for i in there],
            idx_mapping_np=np.array(there),
            prefill_len_np=np.array([lengths[i] for i in there]),
            num_computed_prefill_tokens_np=np.array([begin] * len(there)),
            num_scheduled_tokens=np.array(count),
        )
        here = []
        for i, n in zip(there, count, strict=True):
            for feature, made in zip(features[str(i)], encoded[i], strict=True):
                at = feature.mm_position
                first, last = max(begin - at.offset, 0), min(begin + n - at.offset, at.length)
                if first < last:
                    here.append(made[slice(*at.get_embeds_indices_in_range(first, last))])
        back = pruner.recompute(here, batch, states)
        assert [tuple(x.shape) for x in back] == [(len(x), 2) for x in here]
    for i, some in enumerate(([tall, wide], [wide])):
        full, whole, stays = prompt(some, apart, whole=True)
        wanted, behind = model.get_mrope_input_positions(full, whole)
        assert torch.equal(rope.rows[i][:, : lengths[i]].long(), wanted[:, stays])
        assert rope.deltas[i] + lengths[i] == behind + len(full)
