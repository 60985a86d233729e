"""Lockstep: image and text classifiers on many workers, with proof that they stay in lockstep."""

__version__ = "0.1.0"
