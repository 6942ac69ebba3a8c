"""Policies against a reference: the prefix without its dropped rows, one robot at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PI0Config, PI0ForConditionalGeneration

import otprune
from otprune import DivPrune, OTPrune, OTPruneError, RandomPrune, UnsupportedError, prune
from otprune.engines.transformers import support

from .base import BOS, IMAGE, PAD, TEXT, VOCABULARY
from .onevision import SIGLIP

TOKENS, CHUNK, STATE, STEPS = 16, 5, 6, 3
CAMERAS = ((True, True), (True, False), (False, True))  # of three robots: both, or one of them
HALF = DivPrune(keep=0.5)
SCHEMES = ("compact", "preserved")


def policy(attn: str = "sdpa") -> Any:
    """A tiny random PI0."""
    torch.manual_seed(0)
    expert = {**TEXT, "hidden_size": 16, "intermediate_size": 32}
    model = PI0ForConditionalGeneration(
        PI0Config(
            vlm_config={
                "model_type": "paligemma",
                "text_config": {"model_type": "gemma", **TEXT},
                "vision_config": {**SIGLIP, "projection_dim": 32},
                "image_token_id": IMAGE,
                "projection_dim": 32,
                "hidden_size": 32,
            },
            dit_config={"model_type": "gemma", **expert},
            chunk_size=CHUNK,
            max_state_dim=STATE,
            max_action_dim=STATE,
            num_inference_steps=STEPS,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=0.3)
    model.set_attn_implementation(attn)
    return model.eval()


def inputs(cameras: tuple[tuple[bool, ...], ...] = CAMERAS, mask: bool = True) -> dict[str, Tensor]:
    """What PI0Processor returns: images in front, padded on the right; noise and a time step."""
    generator = torch.Generator().manual_seed(1)
    rows = [
        [IMAGE] * TOKENS * sum(row) + [BOS, 30 + b, 31, 32, 33][: 5 - b % 2]
        for b, row in enumerate(cameras)
    ]
    length = max(map(len, rows)) + 2
    ids = torch.tensor([row + [PAD] * (length - len(row)) for row in rows])
    present = torch.tensor(cameras)
    b = len(rows)
    pixels = torch.randn(*present.shape, 3, 56, 56, generator=generator)
    given = {
        "input_ids": ids,
        "pixel_values": pixels * present[..., None, None, None],
        "pixel_attention_mask": present,
        "state": torch.randn(b, STATE, generator=generator),
        "noise": torch.randn(b, CHUNK, STATE, generator=generator),
    }
    if mask:
        given["attention_mask"] = (ids != PAD).long()
    return given


def kept_of(given: dict[str, Tensor], items: list[Any]) -> Tensor:
    """`(B, S)` bool: tokens of the prefix that stay."""
    keep = given.get("attention_mask", torch.ones_like(given["input_ids"])).bool().clone()
    for row in range(len(keep)):
        columns = (given["input_ids"][row] == IMAGE).nonzero()[:, 0].split(TOKENS)
        mine = [item for item in items if item.row == row]
        for item, at in zip(mine, columns, strict=True):
            keep[row, at] = False
            keep[row, at[item.indices]] = True
    return keep


def embedded(model: Any, given: dict[str, Tensor]) -> Tensor:
    """The full prefix `(B, S, d)`, written out."""
    vlm, rows = model.model.vlm, []
    for ids, pixels, present in zip(
        given["input_ids"], given["pixel_values"], given["pixel_attention_mask"], strict=True
    ):
        embeds = vlm.get_input_embeddings()(ids.masked_fill(ids == IMAGE, 0))
        embeds[ids == IMAGE] = vlm.get_image_features(pixels[present]).pooler_output.flatten(0, 1)
        rows.append(embeds)
    return torch.stack(rows)


def velocity(
    model: Any,
    given: dict[str, Tensor],
    b: int,
    keep: Tensor,
    scheme: str,
    noise: Tensor,
    t: float,
    prefix: Tensor | None = None,
    log_mass: Tensor | None = None,
) -> Tensor:
    """`(chunk, actions)` of robot b at time t: prefix and actions in calls of their own.

    log_mass: `(B, S)`, what is added to the logits of each token of the prefix.
    """
    vlm, dit = model.model.vlm, model.model.dit
    first = 0 if "attention_mask" in given else 1
    mask = given.get("attention_mask", torch.ones_like(given["input_ids"]))[b]
    n = int(keep.sum())
    places = (mask.cumsum(0) - 1)[keep] if scheme == "preserved" else torch.arange(n)
    start = int(mask.sum()) if scheme == "preserved" else n
    added = torch.zeros(n) if log_mass is None else log_mass[b, keep]
    cache = vlm.language_model(
        inputs_embeds=(embedded(model, given) if prefix is None else prefix)[b : b + 1, keep],
        attention_mask=torch.zeros(1, 1, n, n) + added,  # each sees each
        position_ids=places[None] + first,
        use_cache=True,
    ).past_key_values
    suffix = model.embed_action_time(given["state"][b : b + 1], noise[None], torch.tensor([t]))
    sees = torch.zeros(1, 1, CHUNK + 1, n + CHUNK + 1)
    sees[..., 0, n + 1 :] = torch.finfo(torch.float32).min  # the state sees no action
    sees[..., :n] += added
    out = dit(
        inputs_embeds=suffix,
        attention_mask=sees,
        position_ids=start + torch.arange(CHUNK + 1)[None],
        past_key_values=cache,
    )
    return model.action_out_proj(out.last_hidden_state[0, -CHUNK:])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@torch.no_grad()
def test_a_pruned_policy_equals_one_without_the_dropped_tokens(attn: str, scheme: str) -> None:
    model, given = policy(attn), inputs()
    with prune(model, HALF, scheme) as run:
        got = model(**given, timestep=torch.full((3,), 0.7)).logits
        actions = model.sample_actions(**given)
    assert run.last is not None
    assert [(item.row, item.before, item.after) for item in run.last] == [
        (row, TOKENS, TOKENS // 2) for row in (0, 0, 1, 2)
    ]
    assert run.positions == scheme
    keep = kept_of(given, run.last)
    for b in range(3):
        noise = given["noise"][b]
        wanted = velocity(model, given, b, keep[b], scheme, noise, 0.7)
        torch.testing.assert_close(got[b], wanted, rtol=1e-4, atol=1e-4)
        for step in range(STEPS):
            slope = velocity(model, given, b, keep[b], scheme, noise, 1 - step / STEPS)
            noise = noise - slope / STEPS
        torch.testing.assert_close(actions[b], noise, rtol=1e-4, atol=1e-4)
    with prune(model, HALF, "compact" if scheme == "preserved" else "preserved"):
        assert not torch.allclose(model.sample_actions(**given), actions, atol=1e-3)


@pytest.mark.parametrize("scheme", SCHEMES)
@torch.no_grad()
def test_without_a_mask_positions_are_counted_as_the_policy_does(scheme: str) -> None:
    model, given = policy(), inputs(((True, True),), mask=False)
    given["input_ids"] = given["input_ids"].masked_fill(given["input_ids"] == PAD, 34)
    every = torch.ones_like(given["input_ids"][0]).bool()
    time = torch.tensor([0.7])
    plain = velocity(model, given, 0, every, scheme, given["noise"][0], 0.7)
    torch.testing.assert_close(model(**given, timestep=time).logits[0], plain, rtol=1e-4, atol=1e-4)
    with prune(model, HALF, scheme) as run:
        got = model(**given, timestep=time).logits[0]
    keep = kept_of(given, run.last or [])[0]
    wanted = velocity(model, given, 0, keep, scheme, given["noise"][0], 0.7)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@torch.no_grad()
def test_a_kept_token_weighs_as_much_as_those_it_stands_for(attn: str) -> None:
    """In the prefix and where actions attend to it; distance="auto" goes without."""
    model, given = policy(attn), inputs()
    with prune(model, HALF, mass="token", distance="auto") as run:
        actions = model.sample_actions(**given, num_steps=2)
    assert run.last is not None
    assert not run.distance
    keep = kept_of(given, run.last)
    log_mass = torch.zeros(keep.shape)
    log_mass[keep & (given["input_ids"] == IMAGE)] = torch.cat(
        [(item.masses * TOKENS).log() for item in run.last]
    )
    assert float(log_mass.max()) > 1
    assert run.positions is not None
    for b in range(3):
        noise = given["noise"][b]
        for t in (1.0, 0.5):
            call = model, given, b, keep[b], run.positions, noise, t
            noise = noise - velocity(*call, log_mass=log_mass) / 2
        torch.testing.assert_close(actions[b], noise, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_selection_inside_the_encoder_reaches_the_policy() -> None:
    """The prefix has the tokens that the encoder gave, copies of kept ones among them."""
    model, given = policy(), inputs()
    stage = otprune.EncoderStage(0.5)
    with prune(model, HALF, encoder=stage) as run:
        actions = model.sample_actions(**given, num_steps=1)
    assert run.encoder
    assert run.last is not None
    prefix = embedded(model, given)
    prefix[given["input_ids"] == IMAGE] = torch.cat([item.features for item in run.last])
    keep = kept_of(given, run.last)
    for b in range(3):
        noise = given["noise"][b]
        wanted = noise - velocity(model, given, b, keep[b], "compact", noise, 1.0, prefix)
        torch.testing.assert_close(actions[b], wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_keeping_everything_changes_no_bit() -> None:
    model, given = policy(), inputs()
    time = torch.full((3,), 0.7)
    plain, actions = model(**given, timestep=time).logits, model.sample_actions(**given)
    with prune(model, OTPrune(keep=1.0)) as run:
        assert torch.equal(model(**given, timestep=time).logits, plain)
        assert torch.equal(model.sample_actions(**given), actions)
    assert [item.after for item in run.last or []] == 4 * [TOKENS]
    assert torch.equal(model.sample_actions(**given), actions)
    assert not {"forward", "sample_actions", "generate"} & set(vars(model))
    assert "embed_prefix" not in vars(model.model)


@torch.no_grad()
def test_steps_by_hand_on_the_cache_give_what_sample_actions_gives() -> None:
    model, given = policy(), inputs()
    otprune.enable(model, HALF)
    actions = model.sample_actions(**given)
    noise, cache, prefix = given["noise"], None, 0
    images = ("input_ids", "pixel_values")
    later = {name: value for name, value in given.items() if name not in images}
    for step in range(STEPS):
        call = given if cache is None else later | {"past_key_values": cache}
        out = model(**call | {"noise": noise}, timestep=torch.full((3,), 1 - step / STEPS))
        cache = out.past_key_values
        prefix = prefix or cache.get_seq_length() - CHUNK - 1
        cache.crop(prefix - cache.get_seq_length())
        noise = noise - out.logits / STEPS
    torch.testing.assert_close(noise, actions, rtol=1e-5, atol=1e-5)
    otprune.enable(model)
    with pytest.raises(UnsupportedError, match="the cache holds a pruned prompt"):
        model(**later, past_key_values=cache)


def test_gradients_flow_to_the_encoder() -> None:
    model, given = policy(), inputs()
    actions = torch.zeros_like(given["noise"])
    with prune(model, HALF):
        model(**given, actions=actions, timestep=torch.full((3,), 0.7)).loss.backward()
    weight = model.model.vlm.vision_tower.get_input_embeddings().weight
    assert float(weight.grad.abs().sum()) > 0


@torch.no_grad()
def test_robots_without_cameras_act_as_they_do_unpruned() -> None:
    """One among others, and all of them: then no image is there to prune."""
    model, given = policy(), inputs(((True, True), (False, False)))
    with prune(model, HALF):
        together = model.sample_actions(**given)
    blind = {name: value[1:] for name, value in given.items()}
    actions = model.sample_actions(**blind)
    torch.testing.assert_close(together[1:], actions, rtol=1e-4, atol=1e-4)
    with prune(model, HALF, mass="token") as run:
        assert torch.equal(model.sample_actions(**blind), actions)
        assert model(**blind, timestep=torch.ones(1)).logits.shape == actions.shape
        assert run.last == []
        promised = {name: value[:1] for name, value in given.items()}
        promised["pixel_attention_mask"] = torch.zeros(1, 2).bool()
        with pytest.raises(OTPruneError, match="32 image placeholders, and no image comes"):
            model.sample_actions(**promised)
    assert otprune.visual_tokens(model, blind) == []


@torch.no_grad()
def test_visual_tokens_are_those_of_the_present_cameras() -> None:
    model, given = policy(), inputs()
    found = otprune.visual_tokens(model, given)
    assert [item.row for item in found] == [0, 0, 1, 2]
    rows = embedded(model, given)[given["input_ids"] == IMAGE]
    torch.testing.assert_close(torch.cat([x.features for x in found]), rows, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_what_a_policy_cannot_do_is_refused() -> None:
    model, given = policy(), inputs()
    for more, why in (
        ({"distance": True}, "distance with PI0"),
        ({"layers": otprune.LayerStage()}, "layers= with PI0"),
        ({"logits": "full"}, "logits='full' with PI0"),
    ):
        with pytest.raises(UnsupportedError, match=why):
            prune(model, HALF, **more)
        settings = otprune.Settings(HALF, **more)
        otprune.enable(model)
        with pytest.raises(UnsupportedError, match=why):
            model.sample_actions(**given, otprune=settings)
        otprune.disable(model)
    with pytest.raises(UnsupportedError, match="embeds its prefix by itself"):
        otprune.prune_inputs(model, given, HALF)
    assert support(type(model))[0]
    able, why = support(type(model.model))
    assert not able
    assert "prune PI0ForConditionalGeneration" in why
    with prune(model, HALF):
        wrong = given | {"pixel_attention_mask": torch.tensor(CAMERAS).roll(1, 0)}
        with pytest.raises(OTPruneError, match="cameras a sequence"):
            model.sample_actions(**wrong)
        with pytest.raises(OTPruneError, match="pixel_attention_mask is None"):
            model.sample_actions(**given | {"pixel_attention_mask": None})


@torch.no_grad()
def test_rows_that_keep_different_numbers_are_padded() -> None:
    """Three robots at once act as each does alone."""
    model, given = policy(), inputs()
    with prune(model, RandomPrune(keep=0.25, seed=3)):
        together = model.sample_actions(**given)
        for b in range(3):
            alone = {name: value[b : b + 1] for name, value in given.items()}
            torch.testing.assert_close(
                model.sample_actions(**alone)[0], together[b], rtol=1e-4, atol=1e-4
            )
    assert VOCABULARY > IMAGE
