"""Videos and clips: manifests, annotation lists, decoding, temporal sampling, and random augmentation parameters.

This package must not import models or Ray.
"""
