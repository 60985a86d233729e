"""ByHost: gradients are summed inside each host first, and only pieces of the sums leave it.

The network between hosts is the slow one. Inside a host each tensor is dealt evenly to the ranks,
which sum their pieces exactly; every rank exchanges its own piece with the ranks of the same number
on other hosts, by any reducer, so that all of them use the network at the same time and no byte
crosses it twice; then the ranks of a host give each other what they received. That is the
reduce-scatter, allreduce, allgather of hierarchical allreduce (Goyal et al. 2017, arXiv:1706.02677,
section 4), with one collective per stage inside the host.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from app.distributed.reducers.reducer import Collective, Reduced, Reducer
from app.distributed.world import World
from app.state import Kind


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """What one rank of a host has of a tensor: a part of the rows of the matrix that its last
    dimension is the width of, or of the elements of a vector; the last parts end in zeros.

    To a reducer it is a variable.
    """

    shape: tf.TensorShape
    dtype: Any
    path: str
    whole: tf.TensorShape

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


def piece_of(variable: Any, ranks: int) -> Piece:
    """The piece that each of so many ranks has of a variable."""
    whole = tf.TensorShape(variable.shape)
    shape = tf.TensorShape(shape_of_piece(tuple(whole), ranks))
    return Piece(shape, variable.dtype, variable.path, whole)


def shape_of_piece(shape: Sequence[int], ranks: int) -> list[int]:
    """The shape of the pieces of a tensor."""
    if len(shape) < 2:
        return [-(-math.prod(shape) // ranks)]
    return [-(-math.prod(shape[:-1]) // ranks), shape[-1]]


class ByHost:
    """A reducer around another, which reduces the pieces between hosts.

    Rows of sparse gradients are made dense. `bytes_sent` counts what leaves the host.
    """

    def __init__(self, reducer: Reducer, local: World, across: World):
        """`local`, `across`: as `World.by_host` gives them."""
        self.reducer = reducer
        self.local, self.across = local, across
        self._pieces: dict[int, Piece] = {}
        self._found_anew: list[Any] = []

    def build(self, variables: Sequence[Any], add_variable: Callable[..., Any]) -> None:
        """See `Reducer`. Raises ValueError if the reducer keeps residuals: those of a host's ranks
        are of different pieces, so they cannot be dealt to all ranks at a commit point."""

        def add(*args: Any, kind: Kind = Kind.REPLICATED, optional: bool = False, **options: Any):
            if kind is Kind.SUMMED:
                raise ValueError(
                    "sync='hierarchical' does not go with a compression that keeps residuals "
                    "(error feedback), since each rank of a host has those of other pieces: use "
                    "compression 'none', 'fp16' or 'int8', or sync 'every_step'"
                )
            # What is found out from pieces is the same between hosts only, so no rank can save it
            # for all.
            found_anew = optional and kind is Kind.REPLICATED
            kind = Kind.LOCAL if found_anew else kind
            variable = add_variable(*args, kind=kind, optional=optional, **options)
            if found_anew:
                self._found_anew.append(variable)
            return variable

        self._pieces = {id(v): piece_of(v, self.local.size) for v in variables}
        self.reducer.build(list(self._pieces.values()), add)

    def clear(self) -> None:
        """Forget what can be found out anew; outside graphs."""
        for variable in self._found_anew:
            variable.assign(tf.zeros_like(variable.value))

    def reduce(
        self, gradients: Sequence[Any], variables: Sequence[Any], world: World, name: str
    ) -> Reduced:
        """See `Reducer`; `world` is that of `local` and `across`."""
        pieces = [self._pieces[id(variable)] for variable in variables]
        there = [index for index, gradient in enumerate(gradients) if gradient is not None]
        dense = {index: tf.convert_to_tensor(gradients[index]) for index in there}
        mine: list[Any] = [None] * len(pieces)
        groups = _by_dtype(dense)
        for dtype, indices in groups.items():
            dealt = [_deal(dense[i], pieces[i], self.local.size) for i in indices]
            parts = self.local.alltoall(tf.concat(dealt, axis=1), f"{name}.host.{dtype}.pieces")
            split = tf.split(tf.reduce_sum(parts, axis=0), [pieces[i].elements for i in indices])
            for index, flat in zip(indices, split, strict=True):
                mine[index] = tf.reshape(flat, pieces[index].shape)
        reduced = self.reducer.reduce(mine, pieces, self.across, f"{name}.hosts")
        whole: list[Any] = [None] * len(pieces)
        for dtype, indices in groups.items():
            flat = tf.concat([tf.reshape(reduced.gradients[i], [1, -1]) for i in indices], axis=1)
            rows = self.local.allgather(flat, f"{name}.host.{dtype}.sums")
            split = tf.split(rows, [pieces[i].elements for i in indices], axis=1)
            for index, dealt in zip(indices, split, strict=True):
                whole[index] = _undeal(dealt, pieces[index])
        return reduced._replace(gradients=whole)

    def collectives(self, shapes: Sequence[Sequence[int]], ranks: int) -> list[Collective]:
        """See `Reducer`; those inside the host are counted too."""
        size = self.local.size
        pieces = [shape_of_piece(shape, size) for shape in shapes]
        bytes_of_pieces = 4 * sum(math.prod(piece) for piece in pieces)
        return [
            Collective("alltoall", size * bytes_of_pieces),
            *self.reducer.collectives(pieces, ranks // size),
            Collective("allgather", bytes_of_pieces),
        ]


def _by_dtype(tensors: dict[int, tf.Tensor]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for index, tensor in tensors.items():
        groups.setdefault(tensor.dtype.name, []).append(index)
    return groups


def _deal(tensor: tf.Tensor, piece: Piece, ranks: int) -> tf.Tensor:
    """The pieces of all ranks of a host, (ranks, elements of a piece)."""
    flat = tf.reshape(tensor, [-1])
    missing = ranks * piece.elements - piece.whole.num_elements()
    if missing:
        flat = tf.pad(flat, [[0, missing]])
    return tf.reshape(flat, [ranks, piece.elements])


def _undeal(dealt: tf.Tensor, piece: Piece) -> tf.Tensor:
    """The inverse of `_deal`."""
    return tf.reshape(tf.reshape(dealt, [-1])[: piece.whole.num_elements()], piece.whole)
