"""Whether all ranks exchange the same gradients in the same way."""

import itertools
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from app.distributed.world import World


class AgreedKinds:
    """The kinds of gradients that ranks have agreed on: none, dense or rows, for each variable.

    `all_dense`: rows are exchanged as dense gradients.
    """

    def __init__(self, world: World, all_dense: bool):
        self._world = world
        self._all_dense = all_dense
        self._agreed: dict[tuple[int, ...], list[str]] = {}

    def check(self, gradients: Sequence[Any], variables: Sequence[keras.Variable]) -> None:
        """Raise ValueError if ranks would not exchange the same gradients in the same way.

        At the first trace (or eager call) with these variables, which all ranks come to together,
        the ranks compare, and the error is raised on all of them. A rank may trace anew when
        others do not, so from then on each compares with what was agreed.
        """
        kinds = [self._kind(gradient) for gradient in gradients]
        key = tuple(id(variable) for variable in variables)
        if key in self._agreed:
            _check_equal(variables, self._agreed[key], kinds, "now", "before")
            return
        with tf.init_scope():
            rows = self._world.gather(kinds)
        for rank, row in enumerate(rows):
            _check_equal(variables, rows[0], row, f"on rank {rank}", "on rank 0")
        self._agreed[key] = kinds

    def forget(self) -> None:
        """Compare over ranks again, at the next trace of all of them."""
        self._agreed.clear()

    def _kind(self, gradient: Any) -> str:
        if gradient is None:
            return "none"
        return "rows" if isinstance(gradient, tf.IndexedSlices) and not self._all_dense else "dense"


def _check_equal(
    variables: Sequence[keras.Variable],
    expected: list[str],
    found: list[str],
    here: str,
    there: str,
) -> None:
    pairs = itertools.zip_longest(expected, found, fillvalue="none")
    for index, (one, other) in enumerate(pairs):
        if one != other:
            name = variables[index].path if index < len(variables) else f"number {index}"
            raise ValueError(
                f"the gradient of variable '{name}' is {other} {here} and {one} {there}: every "
                "rank must give a gradient of the same kind (none, dense, rows) for each variable "
                "in every step. Give zeros where a branch of the model was not used"
            )
