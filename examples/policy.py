"""A robot's policy and a reward model with pruned images, both tiny and random: no network.

Replace the models by `PI0ForConditionalGeneration.from_pretrained(...)` and by a checkpoint of the
head; the calls stay the same.
"""

import torch
from transformers import (
    LlavaConfig,
    LlavaPreTrainedModel,
    PI0Config,
    PI0ForConditionalGeneration,
)
from transformers.modeling_layers import GenericForSequenceClassification

import otprune

IMAGE, TOKENS = 299, 64
WIDTH = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
TEXT = {**WIDTH, "num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 300}
VISION = {**WIDTH, "num_hidden_layers": 2, "image_size": 112, "patch_size": 14}


class Reward(GenericForSequenceClassification, LlavaPreTrainedModel):
    """How good an answer about an image is: one number for each prompt."""

    config_class = LlavaConfig


def policy() -> PI0ForConditionalGeneration:
    """A PI0 for a robot of 7 joints."""
    return PI0ForConditionalGeneration(
        PI0Config(
            vlm_config={
                "model_type": "paligemma",
                "text_config": {"model_type": "gemma", **TEXT},
                "vision_config": {"model_type": "siglip_vision_model", **VISION},
                "image_token_id": IMAGE,
                "projection_dim": 32,
            },
            dit_config={"model_type": "gemma", **TEXT, "hidden_size": 16},
            chunk_size=8,
            max_state_dim=7,
            max_action_dim=7,
        )
    ).eval()


def reward() -> Reward:
    vision = {"model_type": "clip_vision_model", **VISION, "projection_dim": 32}
    text = {"model_type": "llama", **TEXT, "pad_token_id": 0}
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)
    config.num_labels = config.get_text_config().num_labels = 1
    return Reward(config).eval()


def main() -> None:
    torch.manual_seed(0)
    selector = otprune.TransportPrune(keep=0.25)

    robot = policy()
    inputs = {  # what PI0Processor returns for two cameras
        "input_ids": torch.tensor([[IMAGE] * 2 * TOKENS + [2, 11, 12, 13]]),
        "attention_mask": torch.ones(1, 2 * TOKENS + 4, dtype=torch.long),
        "pixel_values": torch.randn(1, 2, 3, 112, 112),
        "pixel_attention_mask": torch.tensor([[True, True]]),
        "state": torch.randn(1, 7),
        "noise": torch.randn(1, 8, 7),
    }
    with otprune.prune(robot, selector) as run:
        actions = robot.sample_actions(**inputs)
    print("policy:", run, "->", tuple(actions.shape), "actions")

    judge = reward()
    ids = torch.tensor([[1, 10, *[IMAGE] * TOKENS, 11, 12], [1, 10, *[IMAGE] * TOKENS, 13, 0]])
    pixels = torch.randn(2, 3, 112, 112)
    with otprune.prune(judge, selector) as run:
        scores = judge(input_ids=ids, attention_mask=(ids != 0).long(), pixel_values=pixels).logits
    print("reward:", run, "->", tuple(scores.shape), "scores")


if __name__ == "__main__":
    main()
