"""SparseRows: gradients of embeddings travel as the rows that they touch."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from app.distributed.reducers.codec import Codec, Part
from app.distributed.reducers.reducer import Collective, Reduced, Reducer
from app.distributed.world import World


class SparseRows:
    """Gathers the rows of `tf.IndexedSlices`, and leaves all other gradients to `dense`."""

    def __init__(self, dense: Reducer, codec: Codec):
        self.dense = dense
        self.codec = codec
        self._rows: dict[int, int] = {}

    def build(self, variables: Sequence[Any], add_variable: Callable[..., Any]) -> None:
        """Create what `dense` keeps, and a row of the codec's state for each variable."""
        self._rows = {id(variable): row for row, variable in enumerate(variables)}
        self.dense.build(variables, add_variable)

        def add(*args: Any, name: str, **options: Any) -> Any:
            return add_variable(*args, name=f"sparse_{name}", **options)

        self.codec.build(len(variables), add)

    @property
    def is_exact_for_vectors(self) -> bool:
        """See `Reducer`."""
        return getattr(self.dense, "is_exact_for_vectors", False)

    def reduce(
        self,
        gradients: Sequence[Any],
        variables: Sequence[Any],
        world: World,
        name: str,
    ) -> Reduced:
        """See `Reducer`."""
        sparse = {i: g for i, g in enumerate(gradients) if isinstance(g, tf.IndexedSlices)}
        parts = [
            Part(g.values, self._rows[id(variables[i])], f"{name}.sparse.{i}.values")
            for i, g in sparse.items()
        ]
        gathered, row_keeps = self.codec.gather(parts, world)
        rest = [None if index in sparse else g for index, g in enumerate(gradients)]
        reduced, sent, keeps = self.dense.reduce(rest, variables, world, name)
        for (index, gradient), (values, _) in zip(sparse.items(), gathered, strict=True):
            indices = world.allgather(gradient.indices, f"{name}.sparse.{index}.indices")
            # Duplicate indices are added up, as optimizers need them.
            slices = sum_duplicates(values, indices)
            reduced[index] = tf.IndexedSlices(*slices, gradient.dense_shape)
        return Reduced(reduced, [*(one for _, one in gathered), *sent], [*row_keeps, *keeps])

    def collectives(self, shapes: Sequence[Sequence[int]], ranks: int) -> list[Collective]:
        """See `Reducer`: of a model without rows, as `shapes` says nothing of them."""
        return self.dense.collectives(shapes, ranks)


def sum_duplicates(values: tf.Tensor, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(sums (unique, ...) of the rows (n, ...) of each index, the unique indices (unique,)).

    Every rank adds up for itself, and all must get the same bits. On a GPU TensorFlow adds with
    atomics, in any order, so this is always done by the CPU's kernel, which goes row by row.
    """
    with tf.device("CPU"):
        unique, position = tf.unique(indices)
        return tf.math.unsorted_segment_sum(values, position, tf.size(unique)), unique
