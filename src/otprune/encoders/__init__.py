"""Pretrained vision encoders: tokens of photographs without a language model."""
