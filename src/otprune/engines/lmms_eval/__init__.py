"""The plugin for lmms-eval: its entry point, its model, and a task that needs no hub.

lmms-eval finds `manifest` by the entry point group `lmms_eval.models`. It is loaded whenever
lmms-eval starts, so it imports nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest

MODEL = "otprune_hf"


def manifest() -> ModelManifest:
    """What lmms-eval asks a plugin for: the model's name, and where its class is."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=MODEL, chat_class_path=f"{__name__}.model.OTPruneHF")
