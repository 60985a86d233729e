"""PowerSGD (Vogels et al. 2019, arXiv:1905.13727): of each matrix, an approximation of low rank.

A tensor is a matrix M of (all but the last dimension, the last). One step of power iteration, begun
with the last step's Q, gives P Q^T near the sum of all ranks' M: P = M Q and, once its columns are
orthonormal, Q = M^T P; both are sums over ranks, so two collectives do for all matrices. What is
left of M is added to the next step's gradient (error feedback), so nothing is lost, only late.

Orthonormal by QR, which bears zeros and columns that depend on each other.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from app.distributed.reducers.dense import flatten, unflatten
from app.distributed.reducers.lossy import Lossy
from app.distributed.reducers.reducer import Collective, Reduced, Sent
from app.distributed.world import World
from app.state import Kind


class Matrix(NamedTuple):
    """A tensor as a matrix, and the rank of what is sent of it; 0: all of it is."""

    rows: int
    columns: int
    rank: int

    @property
    def elements(self) -> int:
        """Of the tensor."""
        return self.rows * self.columns


class PowerSGD(Lossy):
    """Two collectives a step, of all P and of all Q; one before `wire.from_epoch`.

    A matrix that P and Q would not make smaller is sent as it is, beside P. State: for each other
    matrix Q, float32 (columns, rank), the same on all ranks, and what this rank owes, float32 of
    the shape of the tensor.
    """

    def build_large(
        self, shapes: Sequence[tuple[int, ...]], add_variable: Callable[..., Any]
    ) -> None:
        self._shapes = [tf.TensorShape(shape) for shape in shapes]
        self._matrices = self._matrices_of(shapes)
        self._low = [index for index, matrix in enumerate(self._matrices) if matrix.rank]
        self._start, self._owed = [], []
        for index in self._low:
            matrix = self._matrices[index]
            name = f"powersgd_{index}"
            self._start.append(
                add_variable(
                    (matrix.columns, matrix.rank),
                    dtype="float32",
                    name=f"{name}_q",
                    initializer=keras.initializers.RandomNormal(stddev=1.0, seed=index),
                )
            )
            self._owed.append(
                add_variable(shapes[index], dtype="float32", name=f"{name}_owed", kind=Kind.SUMMED)
            )

    def _matrices_of(self, shapes: Sequence[Sequence[int]]) -> list[Matrix]:
        found = []
        for shape in shapes:
            rows, columns = math.prod(shape[:-1]), shape[-1]
            rank = min(self.wire.powersgd_rank, rows, columns)
            pays = rank * (rows + columns) < rows * columns
            found.append(Matrix(rows, columns, rank if pays else 0))
        return found

    def reduce_large(self, tensors: Sequence[tf.Tensor], world: World, name: str) -> Reduced:
        before = [tf.convert_to_tensor(variable.value) for variable in self._owed]
        whole = [tensors[i] for i in range(len(tensors)) if not self._matrices[i].rank]
        exact = [tensors[index] + owed for index, owed in zip(self._low, before, strict=True)]
        starts = [_revived(tf.convert_to_tensor(variable.value)) for variable in self._start]

        def low() -> list[tf.Tensor]:
            return self._approximate(whole, exact, starts, world, f"{name}.powersgd")

        def all_of_it() -> list[tf.Tensor]:
            sums = _fused_sum([*whole, *exact], world, f"{name}.powersgd.all")
            return [*sums, *map(tf.zeros_like, exact), *starts]

        if self.wire.from_epoch > 0:
            is_low = self.epoch >= self.wire.from_epoch
            results = tf.cond(is_low, low, all_of_it)
        else:
            is_low, results = tf.constant(True), low()
        sums, owed = results[: len(tensors)], results[len(tensors) : len(tensors) + len(exact)]
        after = results[len(tensors) + len(exact) :]
        found: list[Any] = [None] * len(tensors)
        dense = [index for index in range(len(tensors)) if index not in self._low]
        for index, total in zip([*dense, *self._low], sums, strict=True):
            found[index] = tf.ensure_shape(total, self._shapes[index])
        keeps = [*zip(self._owed, owed, strict=True), *zip(self._start, after, strict=True)]
        return Reduced(found, [self._sent(whole, exact, owed, is_low)], keeps)

    def _approximate(self, whole, exact, starts, world, name) -> list[tf.Tensor]:
        """[the sums of `whole`, of `exact`, what is owed of `exact`, the next `starts`]."""
        matrices = [self._matrices[index] for index in self._low]
        own = [
            tf.reshape(tensor, [matrix.rows, matrix.columns])
            for tensor, matrix in zip(exact, matrices, strict=True)
        ]
        left = [tf.matmul(one, start) for one, start in zip(own, starts, strict=True)]
        sums = _fused_sum([*whole, *left], world, f"{name}.p")
        left = [_orthonormal(total) for total in sums[len(whole) :]]
        own_right = [tf.matmul(one, p, transpose_a=True) for one, p in zip(own, left, strict=True)]
        right = _fused_sum(own_right, world, f"{name}.q")
        shapes = [self._shapes[index] for index in self._low]
        together, owed = [], []
        for p, q, own_q, tensor, shape in zip(left, right, own_right, exact, shapes, strict=True):
            together.append(tf.reshape(tf.matmul(p, q, transpose_b=True), shape))
            sent = tf.reshape(tf.matmul(p, own_q, transpose_b=True), shape)
            owed.append(tensor - sent)
        return [*sums[: len(whole)], *together, *owed, *right]

    def _sent(self, whole, exact, owed, is_low) -> Sent:
        def versions() -> tuple[tf.Tensor, tf.Tensor]:
            received = [one - other for one, other in zip(exact, owed, strict=True)]
            return flatten([*whole, *exact]), flatten([*whole, *received])

        elements = sum(matrix.elements for matrix in self._matrices)
        low = sum(one.bytes for one in self._collectives(self._matrices))
        in_bytes = tf.where(is_low, float(low), 4.0 * elements)
        return Sent(
            tf.constant(4.0 * elements, tf.float64), tf.cast(in_bytes, tf.float64), versions
        )

    def collectives_of_large(self, shapes: Sequence[Sequence[int]], ranks: int) -> list[Collective]:
        return self._collectives(self._matrices_of(shapes))

    def _collectives(self, matrices: Sequence[Matrix]) -> list[Collective]:
        """From `wire.from_epoch` on."""
        whole = sum(matrix.elements for matrix in matrices if not matrix.rank)
        left = sum(matrix.rows * matrix.rank for matrix in matrices)
        right = sum(matrix.columns * matrix.rank for matrix in matrices)
        found = [Collective("allreduce", 4 * (whole + left))]
        return [*found, Collective("allreduce", 4 * right)] if right else found


def _revived(start: tf.Tensor) -> tf.Tensor:
    """Columns of the same directions, whose largest elements are 1, so that M Q is about as large
    as M; random ones in the place of those that are zero, as a gradient of zeros leaves them.

    P would have unit vectors there; where a matrix has zeros in those rows, as an embedding has of
    words that do not occur, Q would stay zero, and nothing would ever be sent.
    """
    largest = tf.reduce_max(tf.abs(start), axis=0)
    columns = tf.random.stateless_uniform(start.shape, seed=[0, 0], minval=-1.0)
    return tf.where(largest > 0, tf.math.divide_no_nan(start, largest), columns)


def _orthonormal(columns: tf.Tensor) -> tf.Tensor:
    """An orthonormal basis of the columns. Their size does not matter to it, but to the squares
    that it is made of."""
    largest = tf.reduce_max(tf.abs(columns))
    return tf.linalg.qr(tf.math.divide_no_nan(columns, largest)).q


def _fused_sum(tensors: Sequence[tf.Tensor], world: World, name: str) -> list[tf.Tensor]:
    """The sums over ranks of float32 tensors, in one collective."""
    if not tensors:
        return []
    return unflatten(world.allreduce(flatten(tensors), name), [tensor.shape for tensor in tensors])
