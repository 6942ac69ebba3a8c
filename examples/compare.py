"""Which method suits your images? Compare the kept tokens with all of them, per image.

`visual_tokens` encodes the images of a call and stops there: the language model does not run.
`explain` says how far the kept tokens are from all (squared 2-Wasserstein distance, relative to the
tokens' mean squared norm) and, for methods that have one, a guarantee: value / bound.
"""

from PIL import Image

import otprune
from otprune import demo


def main() -> None:
    model, processor = demo.load()
    names = ("coffee", "cat")
    images = [Image.open(demo.SAMPLES_DIR / f"{name}.jpg") for name in names]
    inputs = processor(images=images, text="<image>\n<image>\n?", return_tensors="pt")
    for name, image in zip(names, otprune.visual_tokens(model, inputs), strict=True):
        print(f"{name}: {len(image.features)} tokens of {image.features.shape[1]} features")
        for method in otprune.METHODS.values():
            if method.needs:  # more than the tokens, such as the question
                continue
            said = method(0.1).explain(image.features)
            sure = "" if said.certificate is None else f", certificate {said.certificate:.2f}"
            print(f"  {method.name:9} distance {said.free_mass_w2_relative:.3f}{sure}")


if __name__ == "__main__":
    main()
