"""Python that a graph calls by name in the process where it runs.

A step is traced by the coordinator and runs in a worker, which has the data. TensorFlow's `PyFunc`
looks its function up in a table of the process that it runs in, by a token; usually that is a
number of the process that traced it, and here it is a name that both have agreed on.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import script_ops  # the table has no public name

_offered: dict[str, Callable[..., Any]] = {}  # TensorFlow's table does not keep them alive


def offer(name: str, function: Callable[..., Any]) -> None:
    """Have graphs that run in this process find `function`, of and to NumPy arrays."""
    _offered[name] = function
    script_ops._py_funcs._funcs[name] = function


def call(name: str, inputs: Sequence[Any], dtypes: Sequence[tf.DType]) -> list[tf.Tensor]:
    """Call what is offered under this name where this operation runs."""
    return tf.raw_ops.PyFunc(input=list(inputs), token=name, Tout=list(dtypes))
