"""`advise-ray evaluate`: the protocols that measure a trained model, and the files with their results.

This package must not depend on how the model was trained. This file imports nothing, so that decoding processes start
fast.
"""
