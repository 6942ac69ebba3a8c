"""Pruning in vLLM: a plugin that vLLM loads by itself, with the same selectors as everywhere else.

    vllm serve MODEL --hf-overrides '{"otprune": {"keep": 0.1}}'

What happens to an image or a video: vLLM's own processor says how many placeholders stand for it,
and fewer are written (`processor`, which reads the settings of the engine and of the request by
`settings`). How it is pruned travels with it to the worker as int64 numbers (`rows`). There vLLM's
own encoder makes all of its features, and a selector chooses those that the language model sees
(`model`, `selection`). Scheduler, caches and attention see only the shorter prompt.

What was decided where there was a choice:

- Where `otprune` is not in the configuration, every class here does what vLLM's own does.
- The number of kept tokens follows from the image's size alone, since placeholders are written
  before features exist.
- Hence a video is one set of tokens where it is one run of placeholders, as it is for `prune`; but
  each frame is a set of its own where the prompt has text between frames (Qwen3-VL, InternVL).
- How an image is pruned is part of its key in every cache.
- Where the method hears the question, the ids of its text are found in the prompt, travel with each
  image and are part of that key; the worker embeds them (`question`).
- M-RoPE positions are preserved by default: kept tokens keep their place, and text has the position
  that it would have after the whole image. Elsewhere vLLM counts positions itself, so they are
  compact.
- Compact M-RoPE positions treat a pruned image as text and an unpruned one as vLLM does. The
  positions of a prefix then depend on that prefix alone, as its cache requires.
- Tokens are counted in the server, where a prompt is written, and seconds in the worker, where a
  selection is made (`counts`, `seconds`).
- A mass in attention is a feature of the keys, since no kernel takes a bias for each key. Heads are
  wider then (`mass`), only where the engine's settings ask for it, and `recommended` does.
- A selection inside the encoder replaces methods of its layers for the time of one call (`tower`).
  Images with different ones never share a call: what they ask is a shared field of theirs.
- The encoder's budget of a step counts images as they are before pruning (`pace`).
- What cannot be pruned correctly is refused when the engine starts. Then each worker, and each
  engine of a data-parallel server, is asked how it prunes (`agreement`): a machine without otprune
  would take the wrong features without a word.
"""
