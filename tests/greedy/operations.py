"""Counts what a device is told to do."""

from torch.utils._python_dispatch import TorchDispatchMode

# These look at memory in another way, or set it aside: nothing is launched.
_NOTHING = set(
    "alias detach diagonal empty empty_like expand new_empty permute select slice split squeeze "
    "t transpose unbind unsqueeze view _unsafe_view".split()
)


class Operations(TorchDispatchMode):
    """All operations that are dispatched, and those of them that launch something."""

    def __init__(self):
        super().__init__()
        self.all = self.launched = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.all += 1
        self.launched += func.overloadpacket.__name__ not in _NOTHING
        return func(*args, **(kwargs or {}))
