"""Keras without what it imports for parts that nobody here uses.

Keras imports scikit-learn (and with it SciPy) for its wrappers, and Matplotlib for its galleries,
wherever they are installed: a fifth of the CPU time that a process takes to start. Both work as
ever once Keras is there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

UNUSED = ("sklearn", "matplotlib")


class _HiddenFromKeras(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        keras = sys.modules.get("keras")
        # `version` is the last that Keras imports.
        if name in UNUSED and keras is not None and not hasattr(keras, "version"):
            raise ModuleNotFoundError(f"{name} is hidden from Keras: {__name__}", name=name)
        return None


def hide_from_keras() -> None:
    """Call this before anything imports Keras or TensorFlow."""
    if not any(isinstance(finder, _HiddenFromKeras) for finder in sys.meta_path):
        sys.meta_path.insert(0, _HiddenFromKeras())
