"""Base models and heads that classify, score or embed, against models that generate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import (
    ColPaliConfig,
    ColPaliForRetrieval,
    ColQwen2Config,
    ColQwen2ForRetrieval,
    Gemma3ForSequenceClassification,
    LlavaConfig,
    PreTrainedModel,
    Qwen2VLConfig,
    ShieldGemma2Config,
    ShieldGemma2ForImageClassification,
)
from transformers.modeling_layers import (
    GenericForSequenceClassification,
    GenericForTokenClassification,
)

import otprune
from otprune import DivPrune, OTPrune, OTPruneError, UnsupportedError, prune, prune_inputs
from otprune.engines.transformers import support
from otprune.engines.transformers.versions import ROWWISE, installed

from .base import IMAGE, Inputs
from .reference import reference_logits
from .test_calls import right_padded
from .tiny import FAMILIES

BATCH = (1, 2, 0)
LABELS = 5
HALF = DivPrune(keep=0.5)
families = pytest.mark.parametrize("name", FAMILIES)


class LlavaForSequenceClassification(
    GenericForSequenceClassification, transformers.LlavaPreTrainedModel
):
    """A head of the caller's own."""

    config_class = LlavaConfig


class Qwen2VLForSequenceClassification(
    GenericForSequenceClassification, transformers.Qwen2VLPreTrainedModel
):
    config_class = Qwen2VLConfig


class LlavaForTokenClassification(GenericForTokenClassification, transformers.LlavaPreTrainedModel):
    config_class = LlavaConfig


class LlavaClosed(GenericForSequenceClassification, transformers.LlavaPreTrainedModel):
    """A head whose forward() takes no further arguments."""

    config_class = LlavaConfig

    def forward(self, input_ids: Any = None, pixel_values: Any = None) -> Any:
        return super().forward(input_ids, pixel_values=pixel_values)


HEADS = {
    "llava": LlavaForSequenceClassification,
    "qwen2_vl": Qwen2VLForSequenceClassification,
    "gemma3": Gemma3ForSequenceClassification,
}


def head_on(name: str, cls: Any) -> tuple[Any, PreTrainedModel]:
    """A head, and a model that generates around the same base model, with its scores as logits."""
    whole = FAMILIES[name].model()
    config = whole.config
    config.num_labels = LABELS
    config.get_text_config().num_labels = LABELS
    head = cls(config).eval()
    head.model = whole.base_model
    score = nn.Linear(config.get_text_config().hidden_size, LABELS, bias=False)
    score.weight.data = torch.randn(score.weight.shape, generator=torch.Generator().manual_seed(5))
    head.score = whole.lm_head = score
    return head, whole


def kept_of(inputs: Inputs, columns: Tensor) -> Tensor:
    """`(B, S)` bool: columns of the caller's prompt that are in the shortened one."""
    keep = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    for b, some in enumerate(columns):
        keep[b, some[some >= 0]] = True
    return keep & inputs["attention_mask"].bool()


@families
@torch.no_grad()
def test_a_base_model_gives_the_hidden_states_of_the_model_that_generates(name: str) -> None:
    family = FAMILIES[name]
    whole = family.model()
    base, inputs = (
        whole.base_model,
        family.inputs(BATCH, **({"video": True} if family.has_video else {})),
    )
    assert support(base) == support(type(base))
    plain = base(**inputs).last_hidden_state
    with prune(base, OTPrune(keep=1.0)):
        assert torch.equal(base(**inputs).last_hidden_state, plain)
    for positions in ("compact", "preserved"):
        settings = otprune.Settings(HALF, positions=positions, mass="token")
        with prune(whole, settings):
            wanted = whole(**inputs, output_hidden_states=True).hidden_states[-1]
        with prune(base, settings) as run:
            found = base(**inputs).last_hidden_state
        assert torch.equal(found, wanted)
        assert run.columns is not None
        assert found.shape[:2] == run.columns.shape
    with prune(whole, HALF, logits="full"):
        logits = whole(**inputs).logits
    with prune(base, HALF, logits="full"):
        full = base(**inputs).last_hidden_state
    assert full.shape == plain.shape
    assert torch.equal(whole.lm_head(full)[logits != 0], logits[logits != 0])
    ours, theirs = prune_inputs(base, inputs, HALF), prune_inputs(whole, inputs, HALF)
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours["position_ids"], theirs["position_ids"])
    tokens = zip(
        otprune.visual_tokens(base, inputs), otprune.visual_tokens(whole, inputs), strict=True
    )
    assert all(torch.equal(a.features, b.features) for a, b in tokens)
    assert not {"generate", "forward"} & set(vars(base))


@torch.no_grad()
def test_a_base_model_goes_on_from_a_pruned_cache() -> None:
    whole, inputs = FAMILIES["qwen2_vl"].model(), FAMILIES["qwen2_vl"].inputs((1, 1))
    more = torch.tensor([[41, 42], [43, 44]])
    found = []
    for model in (whole, whole.base_model):
        with prune(model, HALF):
            cache = model(**inputs).past_key_values
            out = model(input_ids=more, past_key_values=cache, output_hidden_states=True)
        found.append(out.hidden_states[-1])
    assert torch.equal(*found)


@pytest.mark.parametrize("name", ["qwen2_vl", "gemma3"])
@torch.no_grad()
def test_generate_around_a_pruned_base_model_is_right_or_refused(name: str) -> None:
    whole, inputs = FAMILIES[name].model(), FAMILIES[name].inputs((1, 2))
    settings = otprune.Settings(HALF, "preserved", mass="token")
    for more in ({}, {"num_beams": 2}) if installed() >= ROWWISE else ({},):
        call = inputs | {"max_new_tokens": 4, "do_sample": False} | more
        with prune(whole, settings):
            wanted = whole.generate(**call)
        with prune(whole.base_model, settings):
            assert torch.equal(whole.generate(**call), wanted)
    with prune(whole.base_model, settings), pytest.raises(UnsupportedError, match="attention_mask"):
        whole.generate(**inputs, max_new_tokens=4, cache_implementation="static")


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("positions", ["compact", "preserved"])
@torch.no_grad()
def test_a_head_scores_the_last_token_of_the_reference(
    name: str, side: str, positions: str
) -> None:
    head, whole = head_on(name, HEADS[name])
    inputs = FAMILIES[name].inputs(BATCH)
    if side == "right":
        inputs = right_padded(inputs)
    plain = head(**inputs).logits
    with prune(head, OTPrune(keep=1.0)):
        assert torch.equal(head(**inputs).logits, plain)
    labels = torch.tensor([0, 3, 1])
    with prune(head, HALF, positions) as run:
        out = head(**inputs, labels=labels)
    assert run.columns is not None
    assert run.labels is None
    keep = kept_of(inputs, run.columns)
    assert int(keep.sum()) < int(inputs["attention_mask"].sum())
    rows = reference_logits(whole, inputs, keep, positions, torch.empty(3, 0, dtype=torch.long))
    wanted = torch.stack([row[-1] for row in rows])
    torch.testing.assert_close(out.logits, wanted, rtol=1e-4, atol=2e-4)
    loss = nn.functional.cross_entropy(out.logits, labels)
    torch.testing.assert_close(out.loss, loss)
    ready = prune_inputs(head, inputs | {"labels": labels}, HALF, positions)
    torch.testing.assert_close(head(**ready).logits, wanted, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("kind", ["regression", "multi_label_classification"])
@torch.no_grad()
def test_labels_of_sequences_are_no_labels_of_tokens(kind: str) -> None:
    head, _ = head_on("llava", LlavaForSequenceClassification)
    head.config.problem_type = kind
    labels = torch.rand(len(BATCH), LABELS).round()
    lose = {"regression": nn.MSELoss(), "multi_label_classification": nn.BCEWithLogitsLoss()}[kind]
    with prune(head, HALF) as run:
        out = head(**FAMILIES["llava"].inputs(BATCH), labels=labels)
    torch.testing.assert_close(out.loss, lose(out.logits, labels))
    assert run.input_ids is not None
    assert run.labels is None


@torch.no_grad()
def test_a_head_for_tokens_gives_each_the_logits_of_the_reference() -> None:
    head, whole = head_on("llava", LlavaForTokenClassification)
    inputs = FAMILIES["llava"].inputs(BATCH)
    labels = torch.randint(LABELS, inputs["input_ids"].shape)
    labels[inputs["input_ids"] == IMAGE] = -100
    with prune(head, HALF) as run:
        out = head(**inputs, labels=labels)
    with prune(whole, HALF):
        assert torch.equal(whole(**inputs).logits, out.logits)
    assert run.labels is not None
    assert run.labels.shape == out.logits.shape[:2]
    assert run.columns is not None
    own = labels.gather(1, run.columns.clamp(min=0)).masked_fill(run.columns < 0, -100)
    assert torch.equal(run.labels, own)
    loss = nn.functional.cross_entropy(out.logits.flatten(0, 1), own.flatten())
    torch.testing.assert_close(out.loss, loss)
    with prune(head, HALF, logits="full"):
        full = head(**inputs).logits
    assert full.shape[:2] == inputs["input_ids"].shape
    torch.testing.assert_close(full[:, -1], out.logits[:, -1])


@torch.no_grad()
def test_a_retrieval_model_embeds_the_kept_tokens() -> None:
    whole, inputs = FAMILIES["paligemma"].model(), FAMILIES["paligemma"].inputs(BATCH)
    model = ColPaliForRetrieval(ColPaliConfig(vlm_config=whole.config, embedding_dim=8)).eval()
    model.vlm = whole.base_model
    whole.lm_head = model.embedding_proj_layer
    plain = model(**inputs).embeddings
    with prune(model, OTPrune(keep=1.0)):
        assert torch.equal(model(**inputs).embeddings, plain)
    with prune(model, HALF) as run:
        found = model(**inputs).embeddings
    assert run.columns is not None
    keep = kept_of(inputs, run.columns)
    rows = reference_logits(whole, inputs, keep, "compact", torch.empty(3, 0, dtype=torch.long))
    for b, row in enumerate(rows):
        wanted = row / row.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(found[b, -len(row) :], wanted, rtol=1e-4, atol=1e-4)
        assert not found[b, : -len(row)].any()


@pytest.mark.parametrize("positions", ["compact", "preserved"])
@torch.no_grad()
def test_a_retrieval_model_that_encodes_by_itself_gets_embeddings(positions: str) -> None:
    family = FAMILIES["qwen2_vl"]
    whole, inputs = family.model(), family.inputs((1, 1, 1))
    config = ColQwen2Config(vlm_config=whole.config, embedding_dim=8)
    model = ColQwen2ForRetrieval(config).eval()
    model.vlm, whole.lm_head = whole.base_model, model.embedding_proj_layer
    parts = inputs["pixel_values"].split(inputs["image_grid_thw"].prod(-1).tolist())
    padded = nn.utils.rnn.pad_sequence(parts, batch_first=True)  # as its processor does
    given = {name: inputs[name] for name in ("input_ids", "attention_mask", "image_grid_thw")} | {
        "pixel_values": padded
    }
    plain = model(**given).embeddings
    with prune(model, OTPrune(keep=1.0)):
        assert torch.equal(model(**given).embeddings, plain)
    with prune(model, HALF, positions) as run:
        found = model(**given).embeddings
        query = model(input_ids=inputs["input_ids"][:, -3:]).embeddings
    assert torch.equal(query, model(input_ids=inputs["input_ids"][:, -3:]).embeddings)
    assert torch.equal(model(**given).embeddings, plain)
    ready = prune_inputs(model, given, HALF, positions)
    assert torch.equal(model(**ready).embeddings, found)
    assert run.last == []  # the query has no image
    with prune(model, HALF, positions) as run:
        model(**given)
    assert run.columns is not None
    keep = kept_of(inputs, run.columns)
    plain_text = inputs["attention_mask"].cumsum(-1).sub(1).clamp(min=0)  # positions as in text
    as_text = inputs | {"position_ids": plain_text.expand(3, -1, -1)}
    rows = reference_logits(whole, as_text, keep, positions, torch.empty(3, 0, dtype=torch.long))
    for b, row in enumerate(rows):
        wanted = row / row.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(found[b, -len(row) :], wanted, rtol=1e-4, atol=1e-4)
    tokens = otprune.visual_tokens(model, given)
    wanted_tokens = otprune.visual_tokens(whole, inputs)
    for one, other in zip(tokens, wanted_tokens, strict=True):
        assert torch.equal(one.features, other.features)
    with prune(model, HALF), pytest.raises(OTPruneError, match="image_grid_thw is None"):
        model(**given | {"image_grid_thw": None})


@torch.no_grad()
def test_a_guard_that_wraps_a_model_that_generates() -> None:
    whole, inputs = FAMILIES["gemma3"].model(), FAMILIES["gemma3"].inputs((1, 2))
    config = ShieldGemma2Config(**whole.config.to_dict() | {"yes_token_index": 40})
    config.no_token_index = 41
    guard = ShieldGemma2ForImageClassification(config).eval()
    guard.model = whole
    with prune(whole, HALF):
        wanted = whole(**inputs).logits[:, -1, [40, 41]]
    with prune(guard, HALF):
        assert torch.equal(guard(**inputs).logits, wanted)


def test_what_heads_cannot_do_is_refused() -> None:
    head, _ = head_on("llava", LlavaForSequenceClassification)
    with pytest.raises(UnsupportedError, match="gives no logits for single tokens"):
        prune(head, HALF, logits="full")
    given = FAMILIES["llava"].inputs((1,))
    with prune(head, HALF), pytest.raises(UnsupportedError, match="gives no logits for single"):
        head(**given, otprune=otprune.Settings(HALF, logits="full"))
    assert "generate" not in vars(head)
    with pytest.raises(UnsupportedError, match="does not generate: a session needs"):
        otprune.watch(head, None, HALF)  # type: ignore[arg-type]
    able, why = support(LlavaClosed)
    assert not able
    assert why.startswith("LlavaClosed")
    inputs = FAMILIES["llava"].inputs((1,))
    del inputs["pixel_values"]
    with prune(head, HALF), pytest.raises(OTPruneError, match="no image comes with"):
        prune_inputs(head, inputs, HALF)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("ColModernVBertForRetrieval", "takes no mm_encoder_outputs"),
        ("ModernVBertForSequenceClassification", "takes no mm_encoder_outputs"),
        ("DiffusionGemmaModel", "does not generate token by token"),
        ("T5Gemma2Encoder", "no class of its config generates"),
        ("Granite4VisionModel", "its images enter as deepstack levels alone"),
    ],
)
def test_why_a_class_is_refused(name: str, why: str) -> None:
    if not hasattr(transformers, name):
        pytest.skip(f"{name} is not in this release of transformers")
    able, told = support(getattr(transformers, name))
    assert not able
    assert told.startswith(name)
    assert why in told
