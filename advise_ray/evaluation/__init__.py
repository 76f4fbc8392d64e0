"""`advise-ray evaluate`: the protocols by which a trained model is measured, and what is written of the results.

It must not know how the model was trained. It imports nothing here, so that decoding processes start fast.
"""
