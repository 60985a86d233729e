"""Exact evaluation: every rank scores its part of a split, and counts are summed once."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from app.classifier import Classifier
from app.data.batches import Feed, Split
from app.data.examples import Source
from app.data.heads import MISSING, Head, by_head
from app.data.order import evaluation_indices
from app.distributed.world import World
from app.evaluation.calibration import scaled
from app.evaluation.results import Results
from app.evaluation.scores import Scores, Tally, finite, most_confident
from app.evaluation.sureness import Sureness
from app.pulse import PULSE

EVALUATION_BATCH_SIZE = 256


def evaluate(
    classifier: Classifier,
    split: Split,
    world: World,
    most_mistakes: int = 0,
    temperatures: Mapping[str, float] | None = None,
    sureness: Sequence[Sureness] = (),
) -> Results:
    """Score a split on all ranks of `world`; a collective.

    The counts equal those of one process over the whole split: each example is scored by exactly
    one rank, whatever the world size, and integers are summed once. `most_mistakes`: how many of
    the most confident mistakes of all ranks to return, for each head. `temperatures`: by the names
    of heads, if the classifier is calibrated; the results then have the `raw` scores too.
    `sureness`: one for each head, which remembers this rank's part; it is not gathered.
    """
    classifier = world.near(classifier)
    known_as = [task.name for task in classifier.objective.tasks]
    temperatures = temperatures or {}
    tallies = [Tally(classes, most_mistakes) for classes in classifier.classes]
    raw = [Tally(classes) for classes in classifier.classes] if temperatures else []
    for places, labels, of_heads in scored(classifier, split, world):
        for number, (name, logits) in enumerate(zip(known_as, of_heads, strict=True)):
            is_known = labels[:, number] != MISSING
            own, rows = labels[is_known, number], places[is_known]
            says = scaled(logits[is_known], temperatures.get(name))
            tallies[number].add(says, own, rows)
            if raw:
                raw[number].add(logits[is_known], own, rows)
            if sureness:
                sureness[number].add(says, own)
    found = [_of_all_ranks(tally, world, most_mistakes) for tally in tallies]
    uncalibrated = [_of_all_ranks(tally, world, 0) for tally in raw]
    return Results(
        dict(zip(known_as, found, strict=True)),
        [task.weight for task in classifier.objective.tasks],
        dict(zip(known_as, uncalibrated, strict=False)),
    )


def scored(
    classifier: Classifier, split: Split, world: World
) -> Iterator[tuple[np.ndarray, np.ndarray, list[np.ndarray]]]:
    """This rank's part of a split, batch by batch: places in the split int64 (B,), labels int64
    (B, heads), and the logits of each head, float32 (B, classes)."""
    own = evaluation_indices(len(split), world.rank, world.size)
    score, done = _scorer(classifier), 0
    for batch in Feed(split).evaluation(world.rank, world.size, EVALUATION_BATCH_SIZE):
        PULSE.beat()
        labels = by_head(batch.labels.numpy())
        places = np.array(own[done : done + len(labels)])
        yield places, labels, [logits.numpy() for logits in score(batch.inputs)]
        done += len(labels)


def _of_all_ranks(tally: Tally, world: World, most_mistakes: int) -> Scores:
    mistakes = [one for rank in world.gather(tally.mistakes) for one in rank]
    return Scores.of(
        world.sum(tally.counts), world.sum(tally.sums), most_confident(mistakes, most_mistakes)
    )


def evaluate_average(
    classifier: Classifier, split: Split, world: World, most_mistakes: int = 0
) -> Results | None:
    """As `evaluate`, with the moving average for the weights; None if there is none."""
    average = classifier.weight_average
    if average is None:
        return None
    with average.in_place():
        return evaluate(classifier, split, world, most_mistakes)


def describe(
    results: Results, heads: Sequence[Head], source: Source, texts: bool
) -> dict[str, Any]:
    """Results as JSON values: the metrics, and the most confident mistakes, each with its place
    and, for texts, its text. Of several labels "accuracy", "loss", and these of each in "heads".
    Of a calibrated classifier also what it says uncalibrated.

    Raises UserError if the source can no longer be read.
    """
    each = {}
    for name, class_names in heads:
        scores = results.heads[name]
        mistakes = _describe_mistakes(scores, source, class_names, texts)
        each[name] = scores.to_json(list(class_names))
        if name in results.raw:
            each[name]["uncalibrated"] = {
                "loss": finite(results.raw[name].loss),
                "calibration_error": finite(results.raw[name].calibration_error),
            }
        each[name]["mistakes"] = mistakes
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
