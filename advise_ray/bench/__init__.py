"""`advise-ray bench`: measurements. Each takes its rivals and its limits in one run, and medians of several.

It must not change what it measures.
"""
