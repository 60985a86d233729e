"""Splits ready for the network, in memory or read when their turn comes, and a rank's batches.

Both kinds are read by position, so the plan of an epoch, and its guarantee, are the same for both.
"""

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from app.data.examples import Source
from app.data.heads import labelled
from app.data.order import Share, evaluation_indices
from app.errors import UserError

Inputs = Any  # of a network: a tensor, or a dict of tensors such as "token_ids", "padding_mask"
PREPARED_AHEAD = 3  # batches that wait, beside those being made: enough to even out a slow one


class Batch(NamedTuple):
    """One rank's part of one pass.

    inputs: uint8 (own, height, width, channels) or int32 token ids (own, longest), 0-padded to
    the longest text of all ranks' parts, or a dict of such tensors; labels: int64 (own,), own may
    be 0, or (own, heads) with -1 for a missing one; total: the examples of all ranks in this pass,
    int64 (), or None where it is not known; targets: float32 (own, classes), the shares of each
    class where images are blends, or None, or a tuple of one for each head; counts: the labels of
    each head in all parts of all passes of this step, int64 (heads,), or None.
    """

    inputs: Inputs
    labels: Any
    total: Any = None
    targets: Any = None
    counts: Any = None


class Split(Protocol):
    """A split that batches can be taken from.

    `labels`: int64 NumPy (n,), or (n, heads), see heads.py. `files_of`: see `Source`; None where
    order costs nothing. `workers`: how many batches are made at a time.
    """

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def files_of(self) -> np.ndarray | None: ...

    @property
    def workers(self) -> int: ...

    def __len__(self) -> int: ...

    def inputs(self, rows: np.ndarray, longest: int) -> Inputs:
        """The inputs of the rows, int64 (m,); texts are padded to `longest` tokens. Called by
        several threads at a time. Raises UserError for what can no longer be read."""
        ...

    def longest(self, indices: np.ndarray) -> int:
        """Tokens of the longest text among the rows; 0 for images."""
        ...


class Loaded:
    """A split in memory: uint8 images, or ragged int32 token ids with their `lengths` (n,); or a
    dict of such tensors."""

    files_of = None
    workers = 1

    def __init__(
        self,
        everything: Any,
        labels: np.ndarray,
        lengths: np.ndarray | None = None,
    ):
        self.everything = everything
        self.labels = labels
        self.lengths = lengths

        def gather(rows: tf.Tensor, longest: tf.Tensor) -> Inputs:
            chosen = tf.nest.map_structure(lambda one: tf.gather(one, rows), everything)
            return padded(chosen, longest)

        signature = [tf.TensorSpec([None], tf.int64), tf.TensorSpec([], tf.int64)]
        self._gather = tf.function(gather, input_signature=signature, autograph=False)

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, rows: np.ndarray, longest: int) -> Inputs:
        return self._gather(tf.constant(rows, tf.int64), tf.constant(longest, tf.int64))

    def longest(self, indices: np.ndarray) -> int:
        return 0 if self.lengths is None or not len(indices) else int(self.lengths[indices].max())


class Streamed:
    """A split that is read from its source when its turn comes.

    Args:
        source: what `read` gives bytes or uint8 images (h, w, c) for.
        decode: bytes (m,) -> uint8 images (m, h, w, c) or ragged int32 token ids, or a dict of
            such tensors, in a graph; None if the source gives images.
        lengths: tokens of each text, int (n,), for texts.
    """

    def __init__(
        self,
        source: Source,
        decode: Callable[[tf.Tensor], Any] | None,
        lengths: np.ndarray | None = None,
    ):
        self.source = source
        self.labels = source.labels
        self.files_of = source.files_of
        self.lengths = lengths
        self.workers = len(os.sched_getaffinity(0))
        self._decode = None

        def graph(content: tf.Tensor, longest: tf.Tensor) -> Inputs:
            return padded(decode(content), longest)  # type: ignore[misc]

        if decode is not None:
            signature = [tf.TensorSpec([None], tf.string), tf.TensorSpec([], tf.int64)]
            self._decode = tf.function(graph, input_signature=signature, autograph=False)

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, rows: np.ndarray, longest: int) -> Inputs:
        content = self.source.read(rows)
        if self._decode is None:
            return tf.constant(content)
        try:
            return self._decode(tf.constant(content, tf.string), tf.constant(longest, tf.int64))
        except tf.errors.InvalidArgumentError as error:
            names = ", ".join(self.source.where(int(row)) for row in rows[:3])
            raise UserError(
                f"an image can no longer be decoded, in a batch with {names}: "
                f"{str(error).strip().splitlines()[0]}"
            ) from None

    longest = Loaded.longest


def padded(inputs: Any, longest: tf.Tensor | None = None) -> Inputs:
    """A tensor or a dict of them; what is ragged, (m, longest) with 0 after the end of each text.

    `longest`: tokens; None for those of the longest text here.
    """

    def fill(one: Any) -> tf.Tensor:
        if not isinstance(one, tf.RaggedTensor):
            return one
        dense = one.to_tensor()
        if longest is None:
            return dense
        return tf.pad(dense, [[0, 0], [0, longest - tf.shape(dense, tf.int64)[1]]])

    return tf.nest.map_structure(fill, inputs)


def _copied(batch: Batch, device: str) -> Batch:
    """The batch where the step reads it; `total` stays where the loop does."""
    with tf.device(device):
        inputs = tf.nest.map_structure(tf.identity, batch.inputs)
        labels = tf.identity(batch.labels)
        targets = (
            None if batch.targets is None else tf.nest.map_structure(tf.identity, batch.targets)
        )
        counts = None if batch.counts is None else tf.identity(batch.counts)
    return Batch(inputs, labels, batch.total, targets, counts)


class Augmenter(Protocol):
    """Changes a batch of images; see `app.data.augment.augment.Augment`."""

    def __call__(
        self,
        images: tf.Tensor,
        labels: tf.Tensor,
        positions: tf.Tensor,
        epoch: tf.Tensor,
        examples: tf.Tensor,
    ) -> Any: ...


class Plan(Protocol):
    """Which examples a rank trains on: `EpochPlan` or `LocalEpochs`."""

    def shares(self, rank: int) -> Iterator[Share]: ...


class Feed:
    """Makes the batches of a split, a few ahead of use, in threads of its own.

    Threads rather than tf.data: nothing is set up anew for an epoch, and waiting for input was
    three to ten times less (NOTES.md); an error of the source arrives as it is.

    `counts`: whether batches know how many labels their step has. Not where images are blended
    whose labels may be missing: what is left of a blend is known to who has it.
    """

    def __init__(self, split: Split, augment: Augmenter | None = None, counts: bool = False):
        self.split = split
        self._counts = counts
        # Batches are made on the CPU, and copied to the rank's GPU before the step waits for them.
        self._gpu = next(iter(tf.config.list_logical_devices("GPU")), None)
        self._augment = augment and tf.function(augment, autograph=False, reduce_retracing=True)

    def training(self, plan: Plan, rank: int, epoch: int = 0) -> Iterator[Batch]:
        """This rank's batches of the rest of an epoch, in order.

        Raises UserError if a file of the split can no longer be read.
        """

        return self._ahead(
            lambda part: self._of_share(part[0], epoch, part[1]), self._counted(plan.shares(rank))
        )

    def batch(self, share: Share, epoch: int) -> Batch:
        """A rank's part of one pass, without counts; errors as of `training`."""
        return self._of_share(share, epoch)

    def _of_share(self, share: Share, epoch: int, counts: np.ndarray | None = None) -> Batch:
        return self._batch(share.indices, share.global_indices, share.positions, epoch, counts)

    def _counted(self, shares: Iterable[Share]) -> Iterator[tuple[Share, np.ndarray | None]]:
        """Each share with the labels of each head in its whole step, int64 (heads,)."""
        step: list[Share] = []
        for share in shares:
            step.append(share)
            if share.last_pass:
                rows = np.concatenate([one.global_indices for one in step])
                counts = labelled(self.split.labels[rows]) if self._counts else None
                yield from ((one, counts) for one in step)
                step = []

    def evaluation(self, rank: int, world_size: int, batch_size: int) -> Iterator[Batch]:
        """This rank's part of the split, in the order of the dataset; ranks' parts are disjoint."""
        own = evaluation_indices(len(self.split), rank, world_size)
        starts = range(own.start, own.stop, batch_size)
        rows = (np.arange(start, min(start + batch_size, own.stop)) for start in starts)
        return self._ahead(lambda part: self._batch(part, part), rows)

    def _batch(
        self,
        rows: np.ndarray,
        global_rows: np.ndarray,
        positions: np.ndarray | None = None,
        epoch: int = 0,
        counts: np.ndarray | None = None,
    ) -> Batch:
        with tf.device("CPU"):
            inputs, targets = self.split.inputs(rows, self.split.longest(global_rows)), None
            labels = tf.constant(self.split.labels[rows], tf.int64)
            if self._augment and positions is not None:
                places, number = tf.constant(positions, tf.int64), tf.constant(epoch, tf.int64)
                examples = tf.constant(rows, tf.int64)
                inputs, targets = self._augment(inputs, labels, places, number, examples)
            total = tf.constant(len(global_rows), tf.int64)
            known = None if counts is None else tf.constant(counts, tf.int64)
            batch = Batch(inputs, labels, total, targets, known)
        return batch if self._gpu is None else _copied(batch, self._gpu.name)

    def _ahead(self, make: Callable[[Any], Batch], parts: Iterable[Any]) -> Iterator[Batch]:
        with concurrent.futures.ThreadPoolExecutor(self.split.workers) as pool:
            ahead: collections.deque[concurrent.futures.Future[Batch]] = collections.deque()
            try:
                for part in parts:
                    ahead.append(pool.submit(make, part))
                    if len(ahead) > self.split.workers + PREPARED_AHEAD:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)


def spec_of(batch: Batch, rows: int | None) -> Batch:
    """The specs of batches of `rows` rows like this one; the length of token ids varies by
    batch."""

    def row(tensor: tf.Tensor | None) -> tf.TensorSpec | None:
        if tensor is None:
            return None
        is_ids = tensor.shape.rank == 2 and tensor.dtype.is_integer
        return tf.TensorSpec([rows, None] if is_ids else [rows, *tensor.shape[1:]], tensor.dtype)

    def whole(tensor: tf.Tensor | None) -> tf.TensorSpec | None:
        return None if tensor is None else tf.TensorSpec(tensor.shape, tensor.dtype)

    return Batch(
        tf.nest.map_structure(row, batch.inputs),
        tf.TensorSpec([rows, *batch.labels.shape[1:]], batch.labels.dtype),
        whole(batch.total),
        tf.nest.map_structure(row, batch.targets),
        whole(batch.counts),
    )
