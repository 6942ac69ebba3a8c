"""Pretrained vision encoders, for real tokens of real photographs without a language model."""
