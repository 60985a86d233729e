"""Codecs as one loop over the elements, where XLA can make one."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of tensors, compiled by XLA on a host without GPUs.

    There TensorFlow's own kernels write every intermediate result to memory, and take up to eight
    times as long. On a GPU they take a millisecond, and need no compiler to be installed.
    """
    compiled: list[Callable[..., Any]] = []

    def call(*tensors: tf.Tensor) -> Any:
        if not compiled:  # not before devices have been chosen
            has_gpu = bool(tf.config.get_visible_devices("GPU"))
            compiled.append(tf.function(function, jit_compile=not has_gpu, autograph=False))
        return compiled[0](*tensors)

    return call
