"""Branches of the paper's networks, as Flax Linen modules."""
