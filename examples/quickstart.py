"""One question about a photograph: answered with all visual tokens, then with a tenth of them."""

from PIL import Image

import otprune
from otprune import demo

QUESTION = "What color is the star?"


def main() -> None:
    model, processor = demo.load()
    photo = Image.open(demo.SAMPLES_DIR / "coffee.jpg")
    inputs = processor(images=[photo], text=f"<image>\n{QUESTION}", return_tensors="pt")
    prompt = inputs["input_ids"].shape[1]

    output = model.generate(**inputs, max_new_tokens=8)
    print("all tokens:", processor.decode(output[0, prompt:], skip_special_tokens=True))

    with otprune.prune(model, otprune.OTPrune(keep=0.1)) as run:
        output = model.generate(**inputs, max_new_tokens=8)
    print("pruned:    ", processor.decode(output[0, prompt:], skip_special_tokens=True))
    print(run, "kept:", run.last[0].indices.tolist())


if __name__ == "__main__":
    main()
