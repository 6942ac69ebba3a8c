"""Weights of your own: how much each visual token counts when tokens are chosen.

`weights` is a function. It gets the images of a call, as `otprune.visual_tokens` gives them, and
returns one weight a token for each image, or None for an image whose tokens all count alike. Here
one corner of the photograph counts for more; an attention map, a detector's boxes or a similarity
to the question would do as well. OTPrune, TransportPrune and HerdingPrune use weights.
"""

import torch
from PIL import Image

import otprune
from otprune import demo

SIDE = 12  # the embedded model lays an image out in 12 x 12 tokens


def corner(images: list[otprune.VisualTokens]) -> list[torch.Tensor]:
    """The top right quarter counts twenty times as much as the rest."""
    weights = torch.ones(SIDE, SIDE)
    weights[: SIDE // 2, SIDE // 2 :] = 20
    return [weights.flatten() for _ in images]


def main() -> None:
    model, processor = demo.load()
    image = Image.open(demo.SAMPLES_DIR / "coffee.jpg")
    text = "<image>\nWhere is the red circle?"
    inputs = processor(images=[image], text=text, return_tensors="pt")
    selector = otprune.TransportPrune(16)

    for name, weights in (("all alike", None), ("the corner", corner)):
        with otprune.prune(model, selector, weights=weights) as run:
            ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        kept = run.last[0].indices
        inside = ((kept // SIDE < SIDE // 2) & (kept % SIDE >= SIDE // 2)).sum()
        answer = processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        print(f"{name}: {inside} of {len(kept)} kept tokens in the corner, {answer.strip()}")

    # The same choice from the tokens alone, without the language model.
    (tokens,) = otprune.visual_tokens(model, inputs)
    (weights,) = corner([tokens])
    same = selector.select(tokens.features, weights=weights).equal(kept)
    print("the same from the tokens alone:", same)


if __name__ == "__main__":
    main()
