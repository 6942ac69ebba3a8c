"""Episodes of a simulated robot arm: `python -m otprune_bench.robot.episodes FOLDER`.

Meta-World's scripted experts on MuJoCo, seen by a fixed camera, with the segmentation that MuJoCo
renders. Needs `pip install './bench[robot]'` and a way to render: on a machine without a GPU,
Debian's libosmesa6 and MUJOCO_GL=osmesa. An episode that is in the folder already is not made
again. Nothing of it is committed.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otprune.errors import MissingDependencyError, OTPruneError
from otprune_bench.robot.plan import ARM, EVERY, FRAMES, OBJECT, SIZE, TASKS, Task

# Of the camera: where it looks (metres, in the simulator's coordinates), from how far and how high.
LOOK_AT, DISTANCE, ELEVATION = (0.0, 0.62, 0.12), 1.0, -28.0


def make(folder: Path) -> None:
    """Every episode that `folder` does not have yet.

    Raises:
        MissingDependencyError: the simulator is not installed, or cannot render.
    """
    _require()
    folder.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        file = folder / f"{task.name}.npz"
        if file.exists():
            print(f"{file} is there already")
            continue
        made: dict[str, Any] = episode(task)
        # Written beside and moved, so that an interrupt leaves no partial file.
        part = file.with_suffix(".part")
        with part.open("wb") as stream:
            np.savez_compressed(stream, **made)
        os.replace(part, file)
        print(f"{file}: {len(made['frames'])} frames, success: {bool(made['success'])}")


def episode(task: Task) -> dict[str, NDArray[Any]]:
    """One episode of a scripted expert.

    Returns:
        frames: `(T, SIZE, SIZE, 3)` uint8.
        labels: `(T, SIZE, SIZE)` uint8: `ARM`, `OBJECT` or 0.
        moved: `(T,)` float: how far the object is from where it was at the start, in metres.
        success: whether the task was done in the end.
    """
    import metaworld
    import mujoco
    from metaworld.policies import ENV_POLICY_MAP

    one = metaworld.MT1(task.name, seed=0)
    env = one.train_classes[task.name]()
    env.set_task(one.train_tasks[0])
    seen, _ = env.reset(seed=0)
    expert = ENV_POLICY_MAP[task.name]()
    model, data = env.unwrapped.model, env.unwrapped.data
    owner, things = owners(model)
    camera = mujoco.MjvCamera()
    camera.lookat[:], camera.distance, camera.elevation = LOOK_AT, DISTANCE, ELEVATION
    camera.azimuth = task.azimuth
    start = data.geom_xpos[things].copy()
    found: dict[str, list[Any]] = {"frames": [], "labels": [], "moved": []}
    success = False
    renderer = mujoco.Renderer(model, SIZE, SIZE)
    try:
        for step in range(FRAMES * EVERY):
            if step % EVERY == 0:
                renderer.update_scene(data, camera=camera)
                found["frames"].append(renderer.render().copy())
                renderer.enable_segmentation_rendering()
                geom, kind = np.moveaxis(renderer.render(), -1, 0)
                renderer.disable_segmentation_rendering()
                whose = np.where(kind == mujoco.mjtObj.mjOBJ_GEOM, owner[geom], 0)
                found["labels"].append(whose.astype(np.uint8))
                away = np.linalg.norm(data.geom_xpos[things] - start, axis=1)
                found["moved"].append(away.max())
            with warnings.catch_warnings():  # experts ask for more than the arm can, as designed
                warnings.simplefilter("ignore")
                action = np.clip(expert.get_action(seen), -1, 1)
            seen, _, _, _, info = env.step(action)
            success = success or bool(info["success"])
    finally:
        renderer.close()  # a second renderer beside it would read wrong segmentations
        env.close()
    return {**{k: np.stack(v) for k, v in found.items()}, "success": np.array(success)}


def owners(model: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Label of each geom, and the geoms of the object.

    The arm is what hangs on its first joint. The object is everything else that can move, so the
    drawer without its case.
    """
    body = model.geom_bodyid
    arm = np.zeros(model.nbody, bool)
    arm[model.body("right_l0").id] = True
    for i in range(1, model.nbody):  # parents come before their children
        arm[i] |= arm[model.body_parentid[i]]
    movable = (model.body_weldid != 0) & (model.body_mocapid < 0) & ~arm
    label = np.zeros(model.nbody, np.int64)
    label[arm], label[movable] = ARM, OBJECT
    return label[body], np.flatnonzero(movable[body])


def _require() -> None:
    try:
        import metaworld  # noqa: F401
        import mujoco

        mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8).close()
    except ModuleNotFoundError as cause:
        raise MissingDependencyError(
            f"episodes need {cause.name}, which is not installed: pip install './bench[robot]'"
        ) from cause
    except Exception as cause:  # each backend raises types of its own, some when it is imported
        raise MissingDependencyError(
            f"MuJoCo cannot render here ({type(cause).__name__}: {cause}): on a machine without a "
            "GPU run `apt-get install libosmesa6` and set MUJOCO_GL=osmesa"
        ) from cause


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m otprune_bench.robot.episodes FOLDER")
    try:
        make(Path(sys.argv[1]))
    except OTPruneError as error:
        sys.exit(str(error))
