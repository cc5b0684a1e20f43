"""Losses as pure functions of tensors, one module per family; reductions are left to the caller."""
