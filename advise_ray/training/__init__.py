"""Training runs: the plan, the clips, the steps, the checkpoints, and the Ray Train workers.

This package must not know sweeps, evaluations or clusters.
"""
