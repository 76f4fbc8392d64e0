"""Train video models cheaply: a frozen image model, a small temporal module, playback-rate prediction, on Ray."""

__version__ = "0.1.0"
