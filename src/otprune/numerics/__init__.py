"""Arithmetic below the methods: normalisation, products, projection, and who computes them."""
