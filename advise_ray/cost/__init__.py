"""Predicts the time and storage of a run from throughput rates, which it measures on this machine or reads from a file.

This package must not start a run.
"""
