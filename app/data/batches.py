"""Examples in memory, ready for the network, and the batches that a rank takes from them."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from app.data.examples import Examples
from app.data.order import EpochPlan, evaluation_indices
from app.data.text import encode


class Batch(NamedTuple):
    """One rank's part of one pass.

    inputs: uint8 (own, height, width, channels) or int32 token ids (own, longest), 0-padded to
    the longest text of all ranks' parts; labels: int64 (own,), own may be 0; total: the examples
    of all ranks in this pass, int64 (), or None where it is not known.
    """

    inputs: Any
    labels: Any
    total: Any = None


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A split in memory: uint8 images or ragged int32 token ids, and int64 labels."""

    inputs: tf.Tensor | tf.RaggedTensor
    labels: tf.Tensor
    lengths: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, indices: tf.Tensor, longest: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(inputs, labels) of the given rows; texts are padded to `longest` tokens."""
        inputs = tf.gather(self.inputs, indices)
        if isinstance(inputs, tf.RaggedTensor):
            inputs = inputs.to_tensor()
            inputs = tf.pad(inputs, [[0, 0], [0, longest - tf.shape(inputs, tf.int64)[1]]])
        return inputs, tf.gather(self.labels, indices)

    def longest(self, indices: np.ndarray) -> int:
        """Tokens of the longest text among the rows; 0 for images."""
        return 0 if self.lengths is None or not len(indices) else int(self.lengths[indices].max())


def load_images(examples: Examples) -> Loaded:
    """Images as they are."""
    with tf.device("CPU"):
        return Loaded(tf.constant(examples.inputs), tf.constant(examples.labels))


def load_texts(examples: Examples, vocabulary: Sequence[str], ngrams: int, cut: int) -> Loaded:
    """Texts as token ids, cut to `cut` tokens."""
    with tf.device("CPU"):
        ids = encode(examples.inputs, vocabulary, ngrams, cut)
        return Loaded(ids, tf.constant(examples.labels), ids.row_lengths().numpy())


def training_batches(split: Loaded, plan: EpochPlan, rank: int) -> tf.data.Dataset:
    """This rank's batches of the rest of an epoch, in order, prepared ahead of use."""
    shares = list(plan.shares(rank))
    totals = np.array([len(share.global_indices) for share in shares])
    longest = [split.longest(share.global_indices) for share in shares]
    return _gathered(split, [share.indices for share in shares], longest, totals)


def evaluation_batches(
    split: Loaded, rank: int, world_size: int, batch_size: int
) -> tf.data.Dataset:
    """This rank's part of a split, in the order of the dataset; ranks' parts are disjoint."""
    own = evaluation_indices(len(split), rank, world_size)
    parts = [own[start : start + batch_size] for start in range(0, len(own), batch_size)]
    totals = np.array([len(part) for part in parts])
    return _gathered(split, parts, [split.longest(part) for part in parts], totals)


def _gathered(
    split: Loaded, rows: list[np.ndarray], longest: list[int], totals: np.ndarray
) -> tf.data.Dataset:
    with tf.device("CPU"):
        indices = tf.RaggedTensor.from_row_lengths(
            tf.constant(np.concatenate([*rows, np.zeros(0)]), tf.int64), [len(r) for r in rows]
        )
        plan = tf.data.Dataset.from_tensor_slices(
            (indices, tf.constant(longest, tf.int64), tf.constant(totals, tf.int64))
        )

    @tf.autograph.experimental.do_not_convert
    def fetch(own, width, total):
        return Batch(*split.rows(own, width), total)

    batches = plan.map(fetch, num_parallel_calls=1)
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.autotune.enabled = False
    return batches.prefetch(2).with_options(options)
