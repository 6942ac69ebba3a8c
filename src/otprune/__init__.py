"""Visual token pruning for multimodal language models by optimal transport."""
