"""Settings for all tests: one thread (so that runs repeat), few but fixed examples."""

import os

import hypothesis
import torch

torch.set_num_threads(1)

# Triton reads it when it is imported: without a GPU, kernels run in its interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

hypothesis.settings.register_profile(
    "otprune", max_examples=25, deadline=None, derandomize=True, database=None
)
hypothesis.settings.load_profile("otprune")
