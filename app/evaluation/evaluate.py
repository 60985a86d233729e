"""Exact evaluation: every rank scores its part of a split, and counts are summed once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from app.classifier import Classifier
from app.data.batches import Feed, Split
from app.data.examples import Source
from app.data.heads import MISSING, Head, by_head
from app.data.order import evaluation_indices
from app.distributed.world import World
from app.evaluation.results import Results
from app.evaluation.scores import Scores, Tally, finite, most_confident
from app.pulse import PULSE

EVALUATION_BATCH_SIZE = 256


def evaluate(classifier: Classifier, split: Split, world: World, most_mistakes: int = 0) -> Results:
    """Score a split on all ranks of `world`; a collective.

    The counts equal those of one process over the whole split: each example is scored by exactly
    one rank, whatever the world size, and integers are summed once. `most_mistakes`: how many of
    the most confident mistakes of all ranks to return, for each head.
    """
    tallies = [Tally(classes, most_mistakes) for classes in classifier.classes]
    own = evaluation_indices(len(split), world.rank, world.size)
    score, done = _scorer(classifier), 0
    for batch in Feed(split).evaluation(world.rank, world.size, EVALUATION_BATCH_SIZE):
        PULSE.beat()
        labels = by_head(batch.labels.numpy())
        places = np.array(own[done : done + len(labels)])
        for tally, logits, of_head in zip(tallies, score(batch.inputs), labels.T, strict=True):
            known = of_head != MISSING
            tally.add(logits.numpy()[known], of_head[known], places[known])
        done += len(labels)
    heads = {
        task.name: _of_all_ranks(tally, world, most_mistakes)
        for task, tally in zip(classifier.tasks, tallies, strict=True)
    }
    return Results(heads, [task.weight for task in classifier.tasks])


def _of_all_ranks(tally: Tally, world: World, most_mistakes: int) -> Scores:
    mistakes = [one for rank in world.gather(tally.mistakes) for one in rank]
    return Scores.of(
        world.sum(tally.counts), world.sum(tally.sums), most_confident(mistakes, most_mistakes)
    )


def describe(
    results: Results, heads: Sequence[Head], source: Source, texts: bool
) -> dict[str, Any]:
    """Results as JSON values: the metrics, and the most confident mistakes, each with its place
    and, for texts, its text. Of several labels "accuracy", "loss", and these of each in "heads".

    Raises UserError if the source can no longer be read.
    """
    each = {}
    for name, class_names in heads:
        scores = results.heads[name]
        mistakes = _describe_mistakes(scores, source, class_names, texts)
        each[name] = {**scores.to_json(list(class_names)), "mistakes": mistakes}
    if not results.several:
        return each[heads[0].name]
    return {"accuracy": finite(results.accuracy), "loss": finite(results.loss), "heads": each}


def _describe_mistakes(
    scores: Scores, source: Source, class_names: Sequence[str], texts: bool
) -> list[dict[str, Any]]:
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
    """The compiled forward pass, a list of float32 logits; made once per classifier."""
    if not hasattr(classifier, "_scorer"):

        def score(inputs):
            logits = classifier(inputs, training=False)
            of_heads = logits if isinstance(logits, list) else [logits]
            return [tf.cast(one, tf.float32) for one in of_heads]

        classifier._scorer = tf.function(score, autograph=False, reduce_retracing=True)
    return classifier._scorer
