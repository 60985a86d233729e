"""Exact evaluation: every rank scores its part of a split, and counts are summed once."""

import tensorflow as tf

from app.classifier import Classifier
from app.data.batches import Feed, Split
from app.data.order import evaluation_indices
from app.distributed.world import World
from app.scores import Scores, Tally, most_confident

EVALUATION_BATCH_SIZE = 256


def evaluate(classifier: Classifier, split: Split, world: World, most_mistakes: int = 0) -> Scores:
    """Score a split on all ranks of `world`; a collective.

    The counts equal those of one process over the whole split: each example is scored by one
    rank, whatever the world size, and integers are summed once. `most_mistakes`: how many of the
    most confident mistakes of all ranks to return.
    """
    tally = Tally(classifier.network.output_shape[-1], most_mistakes)
    own = evaluation_indices(len(split), world.rank, world.size)
    score, done = _scorer(classifier), 0
    for batch in Feed(split).evaluation(world.rank, world.size, EVALUATION_BATCH_SIZE):
        labels = batch.labels.numpy()
        tally.add(score(batch.inputs).numpy(), labels, own[done : done + len(labels)])
        done += len(labels)
    mistakes = [one for rank in world.gather(tally.mistakes) for one in rank]
    return Scores.of(
        world.sum(tally.counts), world.sum(tally.sums), most_confident(mistakes, most_mistakes)
    )


def _scorer(classifier: Classifier):
    """The compiled forward pass; made once per classifier."""
    if not hasattr(classifier, "_scorer"):

        def score(inputs):
            return tf.cast(classifier(inputs, training=False), tf.float32)

        classifier._scorer = tf.function(score, autograph=False, reduce_retracing=True)
    return classifier._scorer
