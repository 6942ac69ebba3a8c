"""A method of your own: farthest point sampling, as a subclass of `otprune.Selector`.

`pick` is all that a method needs. Checked arguments, batches, masses, merging, rules such as
keep="auto" and every model that otprune prunes come with the base class. In this folder,
`otprune ask PHOTO "QUESTION" --method own_selector:FarthestPoints` uses it by name.
"""

from dataclasses import dataclass

import torch
from PIL import Image

import otprune
from otprune import demo


@dataclass(frozen=True)
class FarthestPoints(otprune.Selector):
    """Each next token is the one farthest from all kept ones; the first has the largest norm."""

    nested = True  # k tokens are the first k of any longer run, so rules need one run only

    def pick(self, tokens: torch.Tensor, k: int, cues: otprune.Cues) -> torch.Tensor:
        """`(B, m, d)` to `(B, k)`, distinct indices in each set."""
        kept = [tokens.norm(dim=-1).argmax(dim=-1, keepdim=True)]
        nearest = torch.full(tokens.shape[:2], torch.inf, device=tokens.device)
        for _ in range(k - 1):
            last = tokens.take_along_dim(kept[-1].unsqueeze(-1), dim=1)
            nearest = nearest.minimum((tokens - last).square().sum(dim=-1))
            nearest = nearest.scatter(1, torch.cat(kept, dim=1), -1)  # equal tokens: none twice
            kept.append(nearest.argmax(dim=-1, keepdim=True))
        return torch.cat(kept, dim=1)


def main() -> None:
    tokens = torch.randn(3, 144, 64, generator=torch.Generator().manual_seed(0))
    print("three sets of tokens:", tuple(FarthestPoints(0.1).select(tokens).shape))

    model, processor = demo.load()
    image = Image.open(demo.SAMPLES_DIR / "coffee.jpg")
    text = "<image>\nWhat color is the star?"
    inputs = processor(images=[image], text=text, return_tensors="pt")
    for keep in (0.2, "auto"):
        with otprune.prune(model, FarthestPoints(keep)) as run:
            ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        answer = processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        print(f"keep={keep}: {run.last[0].before} -> {run.last[0].after} tokens, {answer.strip()}")


if __name__ == "__main__":
    main()
