"""Reasoning at test time: what can be done with several answers of one model."""
