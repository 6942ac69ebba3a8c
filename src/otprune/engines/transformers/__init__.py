"""Pruning in Hugging Face transformers: the prompt is shortened before the model sees it.

A call is processed in four steps. The images are encoded once. A selector chooses the tokens of
each image to keep. The placeholders of the other tokens are removed from ids, mask, labels and type
ids. transformers gets the kept features as `mm_encoder_outputs`. Cache, mask, beams and decoding
then need no changes.

Design decisions:

- *k per image* means the whole image, whatever tiles or entries a family makes of it. A video has
  one budget over all its frames. Families that pass frames as images have one budget a frame, and
  so do families whose calls do not say where a video ends (`Pruned.unit`).
- Images are told apart by the text that the family's processor writes, or by their pixels. If
  neither is enough, the call is refused. Pixels that no encoder takes are refused too.
- Anyres newline rows are tokens like any other: they count, and the selector chooses among them.
  Separators that are text of the prompt always stay.
- "preserved" positions are those of the full prompt; "compact" ones are counted from 0 without
  gaps. "preserved" is refused for families whose attention does not use position ids. "auto" is
  one of the two for each call (`positions.scheme_of`).
- Merging changes the features. Deepstack levels keep their own rows of the kept tokens.
- If every token is kept, the model gets exactly the tensors of an unpruned call, so results are
  identical to the last bit.
- No gradient flows through the choice; it flows through the kept features to the encoder.
- A conversation may continue with text on a pruned cache, inside a with block: with generate() and
  the ids of the whole conversation, or with forward() and the new ids. New images are refused.
  A session (`watching`) appends new frames to a cache of its own.
  Outside a with block such a cache is refused while the model has pruning enabled anywhere. A model
  without pruning does not know what was dropped, and would give new tokens wrong positions.
- Each sequence ends in the same column, counted from the end, as the caller's (`Layout`).
- The state of a call is kept in context variables. Other threads, nested calls and other settings
  on the same model do not affect it (`calls`, `entry`).
- Mass is a bias on the keys of the language model's attention layers, applied during a call only.
  A cache keeps the mass of its prompt. The distance term is a bias on pairs of query and key,
  computed from the positions of the call and those of the cached prompt.
- A mass of n equals n literal copies that attend to each other. Causal copies would differ from the
  second layer on.
- A sliding attention window counts kept tokens, each once whatever its mass.
- A stage inside the language model gives the layers behind a cut the kept tokens alone, at their
  own positions, and gives back whole sequences (`deep`). Their cache is shorter; what they hold is
  recorded beside the prompt.
- Models that do not generate take the same route: base models, heads that hand arguments on to one
  (`heads`), and a policy's prefix (`policy`).
- A call that cannot be pruned correctly raises UnsupportedError; it is never passed on unpruned.
"""

from otprune.engines.transformers.encoded import VisualTokens, visual_tokens
from otprune.engines.transformers.families import FAMILIES, Family, support
from otprune.engines.transformers.inputs import Pruned, prune_inputs
from otprune.engines.transformers.prune import disable, enable, prune
from otprune.engines.transformers.run import Run
from otprune.engines.transformers.settings import Settings
from otprune.engines.transformers.watching.session import Seen, watch

__all__ = [
    "FAMILIES",
    "Family",
    "Pruned",
    "Run",
    "Seen",
    "Settings",
    "VisualTokens",
    "disable",
    "enable",
    "prune",
    "prune_inputs",
    "support",
    "visual_tokens",
    "watch",
]
