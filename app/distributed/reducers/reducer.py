"""What every reducer provides, and what it returns. The package's docstring says how to add one."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from app.distributed.world import World


class Sent(NamedTuple):
    """What the exchange of one tensor took, in the graph of a step; bytes are float64 ()."""

    bytes_uncompressed: tf.Tensor
    bytes_sent: tf.Tensor  # handed to collectives, counted as for a sum in one collective
    versions: Callable[[], tuple[tf.Tensor, tf.Tensor]]  # gives (exact, as others receive it)


class Reduced(NamedTuple):
    """Gradients that have the same bits on every rank, and what it took to make them."""

    gradients: list[Any]  # per variable: tf.Tensor, tf.IndexedSlices with unique indices, or None
    sent: list[Sent]


class Reducer(Protocol):
    """One object owns how gradients are bucketed and compressed, what compression leaves behind,
    and its collectives."""

    def build(self, variables: Sequence[Any], add_variable: Callable[..., Any]) -> None:
        """Create what is kept from step to step; called once, by the optimizer's `build`.

        What `add_variable` makes is set back after a step that all ranks skip.
        """
        ...

    def reduce(
        self,
        gradients: Sequence[Any],
        variables: Sequence[Any],
        world: World,
        name: str,
    ) -> Reduced:
        """The sum over ranks; a collective, in the graph of a step.

        Args:
            gradients: this rank's shares of the mean: per variable a float `tf.Tensor`,
                `tf.IndexedSlices` or None (stays None), in float32 or float64. All values are
                finite: a rank whose gradient is not has zeros here. All ranks have None in the
                same places.
            variables: those of `build`, or some of them.
            name: how the names of its collectives begin, the same on every rank.
        """
        ...
