"""Uses of a trained model: load it, embed videos, export it, serve it.

This package must not depend on how a run was trained.
"""
