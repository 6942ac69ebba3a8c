"""A loop that watches a camera, and says when the answer to a question changes.

`python examples/camera.py 0` takes the first camera. Without an argument it is the sample clip, so
that it runs anywhere. Of a camera the newest frame is taken each time, and the others are dropped:
the loop is never behind, however long a frame takes.
"""

import sys

import otprune
from otprune import demo

QUESTION = "Is there a red circle?"


def main() -> None:
    source = int(sys.argv[1]) if len(sys.argv) > 1 else demo.CLIP
    model, processor = demo.load()
    # The embedded model knows single images: the memory holds one frame's tokens. With a model of
    # videos it would be otprune.watch(model, processor, otprune.StreamSelector(rate=16)).
    session = otprune.watch(model, processor, otprune.OTPrune(16), memory=16)
    last = None
    with session, otprune.frames(source, every=0.25, on_broken=print) as frames:
        for time, image in frames:
            seen = session.see(image, time)
            if not len(seen.indices):
                continue  # nothing is new, so the answer is the same
            answer = session.ask(QUESTION, max_new_tokens=4)
            if answer != last:
                print(f"{time:5.1f} s  {QUESTION} {answer}", flush=True)
            last = answer
    print(f"{session.frames} frames seen, {frames.dropped} dropped")


if __name__ == "__main__":
    main()
