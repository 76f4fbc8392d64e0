"""Measurements: every rival and every limit in the one run, medians of several. `advise-ray bench`."""
