"""A robot loop: look, ask, act, until the answer says that the work is done.

The robot moves a red circle to the right, in small steps, until the model no longer says that it is
left of the blue star. Its camera is drawn here; the loop is that of a real one. Runs offline with
the embedded model:

    python examples/robot.py
"""

from PIL import Image, ImageDraw

import otprune
from otprune import demo

QUESTION = "Is the red circle left of the blue star?"
STAR = [(320, 170), (332, 206), (370, 206), (340, 228), (351, 264), (320, 242), (289, 264)]
STAR += [(300, 228), (270, 206), (308, 206)]


def camera(x: int) -> Image.Image:
    """What the robot sees while it holds the circle at x."""
    image = Image.open(demo.SAMPLES_DIR / "camera.jpg").convert("RGB").resize((480, 480))
    draw = ImageDraw.Draw(image)
    draw.polygon(STAR, fill=(40, 70, 230), outline=(20, 20, 20))
    draw.ellipse((x - 45, 300, x + 45, 390), fill=(220, 40, 40), outline=(20, 20, 20), width=4)
    return image


def main() -> None:
    model, processor = demo.load()
    # This model was trained on single images: it remembers one frame. A larger one remembers more.
    selector, x = otprune.DPPPrune(24), 80
    with otprune.watch(model, processor, selector, memory=24) as session:
        for step in range(40):
            seen = session.see(camera(x), time=step / 10)
            left = session.ask(QUESTION, max_new_tokens=3)
            print(f"{step:2d}  x = {x:3d}  {len(seen.indices)}/{seen.before} tokens  left: {left}")
            if left != "yes":
                break
            x += 20  # the action


if __name__ == "__main__":
    main()
