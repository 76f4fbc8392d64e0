"""The networks: frozen image models (IFM), spatial feature utilization (SFU), temporal modules (TMM), heads, R3D-50.

This package is plain torch. It must not depend on videos, files of a run, or Ray.
"""
