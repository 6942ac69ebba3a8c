"""Several images in a batch, with one budget for each prompt.

Each row of the batch is a prompt of its own, and a prompt may hold several images. With a ratio
every image keeps the same share of its tokens; with `Budget` the images of one prompt share a
total, which goes where it helps most.
"""

from PIL import Image

import otprune
from otprune import demo


def main() -> None:
    model, processor = demo.load()
    coffee, cat, rocket = (
        Image.open(demo.SAMPLES_DIR / f"{name}.jpg") for name in ("coffee", "cat", "rocket")
    )
    plain = Image.new("RGB", coffee.size, (90, 120, 90))
    processor.tokenizer.padding_side = "left"
    inputs = processor(
        images=[coffee, plain, cat, rocket],
        text=[
            "<image>\n<image>\nWhat color is the star?",
            "<image>\nWhat shape is the cyan thing?",
            "<image>\nWhat number is shown?",
        ],
        padding=True,
        return_tensors="pt",
    )
    prompt = inputs["input_ids"].shape[1]
    for keep in (0.2, otprune.Budget(0.2)):
        with otprune.prune(model, otprune.TransportPrune(keep), merge=True) as run:
            ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        print(f"keep={keep}")
        for item in run.last:
            print(f"  prompt {item.row}: {item.before} -> {item.after} tokens")
        for answer in processor.batch_decode(ids[:, prompt:], skip_special_tokens=True):
            print(f"  {answer.strip()}")


if __name__ == "__main__":
    main()
