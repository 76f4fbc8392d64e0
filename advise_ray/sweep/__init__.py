"""Sweeps: a recipe and a search space in, trials by Ray Tune, and what they tell apart."""
