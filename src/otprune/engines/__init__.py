"""Engines: what runs a language model, and how otprune reaches into it."""
