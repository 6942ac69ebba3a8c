"""Pruning in Hugging Face transformers: the prompt is shortened before the model sees it.

One call goes this way: the images are encoded once, a selector reduces the tokens of each, the
placeholders of the others are taken out of ids, mask, labels and type ids, and transformers gets
what was kept as `mm_encoder_outputs`. Cache, mask, beams and decoding are then right by themselves.

What was decided where there was a choice:

- *k per image* means the whole image, whatever tiles or entries a family makes of it; a video has
  one budget over all its frames. A family that hands over frames as images has one for each, and
  so have those whose calls do not tell where a video ends (`Pruned.unit`).
- Images are told apart by what the family's processor writes, or by their pixels; where neither
  tells, the call is refused. So are pixels that no encoder takes.
- Rows that only end a line (anyres newlines) are tokens like any other: they count, and compete.
  Separators that are text of the prompt always stay.
- "preserved" positions keep the place that a token had; "compact" ones are counted anew. Families
  whose attention position ids do not reach are refused the former.
- Merging changes the tokens; deepstack levels keep the rows of the kept tokens.
- With every token kept the model gets the very tensors that it would have got, so no bit changes.
- The choice takes no part in the gradient; what was kept passes it on to the encoder.
- Text may follow on a pruned cache, inside a with block: by generate() with the ids of the whole
  conversation, or by forward() with the new ones. New images there are refused. Outside, the
  model knows nothing of what was dropped, and would misplace what follows.
- Rows end where the caller's do, so that columns counted from the end stay the same (`Layout`).
- The state of a call is the call's own, in context variables: threads, calls inside calls and other
  settings on the same model disturb nothing (`calls`, `entry`).
- Mass reaches into the model, for the length of a call and no longer: it is a bias on the keys of
  the language model's attention layers. A cache keeps the mass that it was made with.
- A sliding window of attention counts the tokens that survive.
- What cannot be pruned rightly raises UnsupportedError; nothing is ever passed on unpruned.
"""

from otprune.engines.transformers.encoded import VisualTokens, visual_tokens
from otprune.engines.transformers.families import FAMILIES, Family, support
from otprune.engines.transformers.inputs import Pruned, prune_inputs
from otprune.engines.transformers.prune import disable, enable, prune
from otprune.engines.transformers.run import Run
from otprune.engines.transformers.settings import Settings

__all__ = [
    "FAMILIES",
    "Family",
    "Pruned",
    "Run",
    "Settings",
    "VisualTokens",
    "disable",
    "enable",
    "prune",
    "prune_inputs",
    "support",
    "visual_tokens",
]
