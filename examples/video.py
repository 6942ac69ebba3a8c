"""A question about a whole clip: few tokens of each frame are kept, and one memory answers.

Without --model the embedded model answers about the sample clip. It was trained on single images,
and tells from the memory of a stream what has been there so far.
"""

import argparse

import otprune
from otprune import demo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip", nargs="?", default=demo.CLIP, help="a video, or a folder of images")
    parser.add_argument("--question", default="Is there a red circle?")
    parser.add_argument("--model", help="the folder or the name of another model")
    parser.add_argument("--every", type=float, default=0.5, help="seconds between frames")
    given = parser.parse_args()
    model, processor = load(given.model)
    with otprune.watch(model, processor, otprune.StreamSelector(rate=16)) as session:
        for time, image in otprune.frames(given.clip, given.every):
            seen = session.see(image, time)
            if len(seen.indices):
                print(f"{time:5.1f} s: {len(seen.indices)} of {seen.before} tokens are new")
        print(f"{session.frames} frames, {session.tokens} tokens remembered")
        print(given.question, session.ask(given.question, max_new_tokens=30))


def load(name):
    if name is None:
        return demo.load()
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(name, dtype="auto").eval()
    return model, AutoProcessor.from_pretrained(name)


if __name__ == "__main__":
    main()
