"""Pruning in vLLM: a plugin that vLLM loads by itself, with the same selectors as everywhere else.

    vllm serve MODEL --hf-overrides '{"otprune": {"keep": 0.1}}'

One image, an image or a video, goes this way: vLLM's own processor says how many placeholders
stand for it, and fewer are written; the number travels with the image to the worker, where vLLM's
own encoder makes all of its features, a selector chooses among them, and the language model sees
those. Scheduler, caches and attention know only the shorter prompt.

What was decided where there was a choice:

- Where `otprune` is not in the configuration every class here is vLLM's own.
- The count comes from the image's size alone, since placeholders are fixed before features exist.
- Hence a video is one set of tokens where it is one run of placeholders, as it is for `prune`; but
  each frame is its own where the prompt has text between them (Qwen3-VL, InternVL).
- How an image is pruned is part of its identity in every cache.
- M-RoPE positions are preserved by default: kept tokens keep their place and text stands where it
  would stand behind the whole image. Elsewhere vLLM counts positions itself, so they are compact.
- Compact M-RoPE positions treat a pruned image as text and a whole one as ever: the positions of
  a prefix then depend on that prefix alone, as its cache demands.
- What cannot be pruned rightly is refused when the engine starts.
"""
