"""Asking a model about photographs by name: what the command line and the page have in common.

Models by name or folder, image files, the grid of an image's tokens, overlays, and one question
answered with all visual tokens and with the kept ones.
"""
