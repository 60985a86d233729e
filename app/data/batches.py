"""Splits ready for the network, in memory or read when their turn comes, and a rank's batches.

Both kinds are read by position, so the plan of an epoch, and its guarantee, are the same for both.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from app.data.examples import Source
from app.data.order import EpochPlan, evaluation_indices
from app.errors import UserError

PREPARED_AHEAD = 4  # batches; enough to even out a slow one


class Batch(NamedTuple):
    """One rank's part of one pass.

    inputs: uint8 (own, height, width, channels) or int32 token ids (own, longest), 0-padded to
    the longest text of all ranks' parts; labels: int64 (own,), own may be 0; total: the examples
    of all ranks in this pass, int64 (), or None where it is not known; targets: float32
    (own, classes), the shares of each class where images are blends, or None.
    """

    inputs: Any
    labels: Any
    total: Any = None
    targets: Any = None


class Split(Protocol):
    """A split that batches can be taken from.

    `labels`: int64 NumPy (n,). `files_of`: see `Source`; None where order costs nothing.
    `workers`: how many batches are made at a time.
    """

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def files_of(self) -> np.ndarray | None: ...

    @property
    def workers(self) -> int: ...

    def __len__(self) -> int: ...

    def rows(self, indices: tf.Tensor, longest: tf.Tensor) -> Any:
        """The inputs of the rows `indices` (int64 (m,)), in a graph; texts are padded to
        `longest` tokens."""
        ...

    def longest(self, indices: np.ndarray) -> int:
        """Tokens of the longest text among the rows; 0 for images."""
        ...


class Loaded:
    """A split in memory: uint8 images, or ragged int32 token ids with their `lengths` (n,)."""

    files_of = None
    workers = 1

    def __init__(
        self,
        inputs: tf.Tensor | tf.RaggedTensor,
        labels: np.ndarray,
        lengths: np.ndarray | None = None,
    ):
        self.inputs = inputs
        self.labels = labels
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, indices: tf.Tensor, longest: tf.Tensor) -> tf.Tensor:
        inputs = tf.gather(self.inputs, indices)
        return padded(inputs, longest) if isinstance(inputs, tf.RaggedTensor) else inputs

    def longest(self, indices: np.ndarray) -> int:
        return 0 if self.lengths is None or not len(indices) else int(self.lengths[indices].max())


class Streamed:
    """A split that is read from its source when its turn comes.

    Args:
        source: what `read` gives bytes or uint8 images (h, w, c) for.
        decode: bytes (m,) -> uint8 images (m, h, w, c) or ragged int32 token ids, in a graph;
            None if the source gives images.
        image_shape: (h, w, c), for images.
        lengths: tokens of each text, int (n,), for texts.
    """

    def __init__(
        self,
        source: Source,
        decode: Callable[[tf.Tensor], Any] | None,
        image_shape: tuple[int, int, int] | None = None,
        lengths: np.ndarray | None = None,
    ):
        self.source = source
        self.labels = source.labels
        self.files_of = source.files_of
        self.lengths = lengths
        self.workers = len(os.sched_getaffinity(0))
        self._decode = decode
        self._image_shape = image_shape
        self.failure: UserError | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, indices: tf.Tensor, longest: tf.Tensor) -> tf.Tensor:
        dtype = tf.string if self._decode else tf.uint8
        content = tf.numpy_function(self._read, [indices], dtype, stateful=False)
        if self._decode is None:
            content.set_shape((None, *(self._image_shape or ())))
            return content
        content.set_shape((None,))
        inputs = self._decode(content)
        return padded(inputs, longest) if isinstance(inputs, tf.RaggedTensor) else inputs

    def _read(self, indices: np.ndarray) -> np.ndarray:
        try:
            content = self.source.read(indices)
        except UserError as error:
            self.failure = error  # TensorFlow would make a text of it
            raise
        return content if self._decode is None else np.array(content, dtype=object)

    longest = Loaded.longest


def padded(ids: tf.RaggedTensor, longest: tf.Tensor) -> tf.Tensor:
    """Token ids (m, longest), with 0 after the end of each text."""
    dense = ids.to_tensor()
    return tf.pad(dense, [[0, 0], [0, longest - tf.shape(dense, tf.int64)[1]]])


class Augmenter(Protocol):
    """Changes a batch of images; see `app.data.augment.Augment`."""

    def __call__(
        self, images: tf.Tensor, labels: tf.Tensor, positions: tf.Tensor, epoch: tf.Tensor
    ) -> Any: ...


class Feed:
    """Makes the batches of a split, a few ahead of use; traced once, used for every epoch."""

    def __init__(self, split: Split, augment: Augmenter | None = None):
        self.split = split

        def make(own, places, width, total, labels, epoch):
            inputs, targets = split.rows(own, width), None
            if augment:
                inputs, targets = augment(inputs, labels, places, epoch)
            return Batch(inputs, labels, total, targets)

        self._make = tf.function(make, autograph=False)

    def training(self, plan: EpochPlan, rank: int, epoch: int = 0) -> Iterator[Batch]:
        """This rank's batches of the rest of an epoch, in order.

        Raises UserError if a file of the split can no longer be read.
        """
        shares = list(plan.shares(rank))
        totals = [len(share.global_indices) for share in shares]
        longest = [self.split.longest(share.global_indices) for share in shares]
        rows, places = [s.indices for s in shares], [s.positions for s in shares]
        return self._batches(rows, places, longest, totals, epoch)

    def evaluation(self, rank: int, world_size: int, batch_size: int) -> Iterator[Batch]:
        """This rank's part of the split, in the order of the dataset; ranks' parts are disjoint."""
        own = evaluation_indices(len(self.split), rank, world_size)
        rows = [own[start : start + batch_size] for start in range(0, len(own), batch_size)]
        longest = [self.split.longest(part) for part in rows]
        return self._batches(rows, rows, longest, [len(part) for part in rows], 0)

    def _batches(
        self,
        rows: list[np.ndarray],
        places: list[np.ndarray],
        longest: list[int],
        totals: list[int],
        epoch: int,
    ) -> Iterator[Batch]:
        with tf.device("CPU"):
            plan = tf.data.Dataset.from_tensor_slices(
                (
                    _ragged(rows),
                    _ragged(places),
                    tf.constant(longest, tf.int64),
                    tf.constant(totals, tf.int64),
                    tf.gather(self.split.labels, _ragged(rows)),
                    tf.fill([len(rows)], tf.constant(epoch, tf.int64)),
                )
            )
        workers = self.split.workers
        batches = plan.map(self._make, num_parallel_calls=workers, deterministic=True)
        options = tf.data.Options()
        options.threading.private_threadpool_size = workers
        options.autotune.enabled = False
        return _until_failure(batches.prefetch(PREPARED_AHEAD).with_options(options), self.split)


def _ragged(rows: list[np.ndarray]) -> tf.RaggedTensor:
    values = tf.constant(np.concatenate([*rows, np.zeros(0)]), tf.int64)
    return tf.RaggedTensor.from_row_lengths(values, [len(row) for row in rows])


def _until_failure(batches: tf.data.Dataset, split: Split) -> Iterator[Batch]:
    """The batches; a UserError of the source instead of what TensorFlow makes of it."""
    try:
        yield from batches
    except tf.errors.OpError as error:
        if not isinstance(split, Streamed):
            raise
        failure, split.failure = split.failure, None
        reason = str(error).strip().splitlines()[0]
        raise failure or UserError(f"an image can no longer be decoded: {reason}") from None
