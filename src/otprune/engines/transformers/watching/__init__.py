"""Watching a stream: frames go into the KV cache as they come, questions are answered from it."""
