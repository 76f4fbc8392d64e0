"""What people do with a trained model: load it, embed videos, export it, serve it.

It must not know how a run was trained.
"""
