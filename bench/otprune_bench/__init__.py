"""Benches: what pruning costs and what it saves, each by one command, without a hub."""
