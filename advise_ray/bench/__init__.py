"""`advise-ray bench`: benchmarks. Each one measures the baselines and upper bounds too, and reports medians of rounds.

This package must not change the code that it measures.
"""
