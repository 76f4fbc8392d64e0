"""What a clip is: manifests, the annotation lists of data sets, decoding, sampling in time, the draws of augmentation.

It must not know models or Ray.
"""
