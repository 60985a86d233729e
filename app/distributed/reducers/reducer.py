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


# Variables that keep something from step to step, and what they are to hold from now on.
Keeps = Sequence[tuple[Any, tf.Tensor]]


class Reduced(NamedTuple):
    """Gradients that have the same bits on every rank, and what it took to make them."""

    gradients: list[Any]  # per variable: tf.Tensor, tf.IndexedSlices with unique indices, or None
    sent: list[Sent]
    keeps: Keeps = ()  # assigned only if the step counts: on no rank after one that is skipped


class Collective(NamedTuple):
    """One collective of a step, and the bytes that each rank hands to it."""

    kind: str  # "allreduce", "allmax", "allgather" or "alltoall": the method of `World`
    bytes: int


class Reducer(Protocol):
    """One object owns how gradients are bucketed and compressed, what compression leaves behind,
    and its collectives.

    One that has `is_exact_for_vectors`, and it is true, sums 1-D float32 tensors exactly, also of
    what is no variable of `build` but has a shape: what ranks tell each other then travels with
    their gradients.
    """

    def build(self, variables: Sequence[Any], add_variable: Callable[..., Any]) -> None:
        """Create what is kept from step to step; called once, by the optimizer's `build`.

        Of a variable only `shape`, `dtype` and `path` are asked for.
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
            gradients: this rank's shares of the mean, without a loss scale: per variable a float
                `tf.Tensor`, `tf.IndexedSlices` or None (stays None), in float32 or float64. All
                values are finite: a rank whose gradient is not has zeros here. All ranks have None
                in the same places.
            variables: those of `build`, or some of them.
            name: how the names of its collectives begin, the same on every rank.
        """
        ...

    def collectives(self, shapes: Sequence[Sequence[int]], ranks: int) -> list[Collective]:
        """What one step of a model hands to collectives; asked by tests and by `app advise`.

        `shapes`: of all variables, whose gradients are dense and float32.
        """
        ...
