"""Exact evaluation: every rank scores its part of a split, and counts are summed once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from app.classifier import Classifier
from app.data.batches import Feed, Split
from app.data.examples import Source
from app.data.order import evaluation_indices
from app.distributed.world import World
from app.evaluation.scores import Scores, Tally, most_confident
from app.pulse import PULSE

EVALUATION_BATCH_SIZE = 256


def evaluate(classifier: Classifier, split: Split, world: World, most_mistakes: int = 0) -> Scores:
    """Score a split on all ranks of `world`; a collective.

    The counts equal those of one process over the whole split: each example is scored by exactly
    one rank, whatever the world size, and integers are summed once. `most_mistakes`: how many of
    the most confident mistakes of all ranks to return.
    """
    classifier = world.near(classifier)
    tally = Tally(classifier.network.output_shape[-1], most_mistakes)
    own = evaluation_indices(len(split), world.rank, world.size)
    score, done = _scorer(classifier), 0
    for batch in Feed(split).evaluation(world.rank, world.size, EVALUATION_BATCH_SIZE):
        PULSE.beat()
        labels = batch.labels.numpy()
        tally.add(score(batch.inputs).numpy(), labels, np.array(own[done : done + len(labels)]))
        done += len(labels)
    mistakes = [one for rank in world.gather(tally.mistakes) for one in rank]
    return Scores.of(
        world.sum(tally.counts), world.sum(tally.sums), most_confident(mistakes, most_mistakes)
    )


def describe_mistakes(
    scores: Scores, source: Source, class_names: Sequence[str], texts: bool
) -> list[dict[str, Any]]:
    """The most confident mistakes as JSON values, each with its place and, for texts, its text.

    Raises UserError if the source can no longer be read.
    """
    rows = np.array([mistake.index for mistake in scores.mistakes], dtype=np.int64)
    contents = source.read(rows) if texts and len(rows) else [None] * len(rows)
    found = []
    for mistake, content in zip(scores.mistakes, contents, strict=True):
        row: dict[str, Any] = {
            "index": mistake.index,
            "where": source.where(mistake.index),
            "true": class_names[mistake.true],
            "predicted": class_names[mistake.predicted],
            "confidence": mistake.confidence,
        }
        if content is not None:
            is_str = isinstance(content, str)
            row["text"] = content if is_str else content.decode("utf-8", "replace")
        found.append(row)
    return found


def _scorer(classifier: Classifier):
    """The compiled forward pass; made once per classifier."""
    if not hasattr(classifier, "_scorer"):

        def score(inputs):
            return tf.cast(classifier(inputs, training=False), tf.float32)

        classifier._scorer = tf.function(score, autograph=False, reduce_retracing=True)
    return classifier._scorer
