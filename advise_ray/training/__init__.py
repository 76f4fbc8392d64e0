"""A training run: its plan, its clips, its steps, its checkpoints, and the Ray Train workers that do them.

It must not know sweeps, evaluations or clusters.
"""
