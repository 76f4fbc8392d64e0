"""The networks: frozen image models (IFM), spatial feature utilization (SFU), temporal modules (TMM), heads, R3D-50.

Plain torch. It must not know videos, files of a run, or Ray.
"""
