"""Reinforcement learning: environments, finite decision processes, and the classical algorithms, one module each."""
