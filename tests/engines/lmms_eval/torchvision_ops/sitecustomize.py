"""Lets lmms-eval import torchvision beside a CPU build of torch.

PyPI's torchvision is built for CUDA; its operators are then missing, and so its import fails. Here
they are declared, not implemented: nothing that is tested calls them.
"""

import contextlib

try:
    import torchvision  # noqa: F401
except ImportError:
    pass
except RuntimeError:
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
