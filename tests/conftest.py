"""Settings for all tests: one thread (so that runs repeat), few but fixed examples."""

import hypothesis
import torch

torch.set_num_threads(1)

hypothesis.settings.register_profile(
    "otprune", max_examples=25, deadline=None, derandomize=True, database=None
)
hypothesis.settings.load_profile("otprune")
