"""The check of an export: loaded in a fresh process, it answers as the run's own network does.

Knows rows of the run's dataset, and an export as a file that a few lines of Python load and call.
"""

import dataclasses
import operator
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from app.commands.model_card import LOADING, Check, Signature, output_names
from app.commands.saved_run import SavedRun, calibrated
from app.data.bad import BadExamples
from app.data.batches import padded
from app.data.catalogue import load_dataset
from app.data.examples import Source
from app.data.heads import MISSING, Head, by_head
from app.data.images import decode_images
from app.data.survey import text_chunks
from app.errors import UserError

FEWEST_ROWS, MOST_ROWS = 32, 512  # compared
BATCH_ROWS = 64
TOLERANCE = 1e-4  # of a probability; other kernels add in another order
CHECK_TIMEOUT_S = 600

# Runs behind the lines of LOADING that the model card shows.
CHECKING = """
import pickle, sys
import numpy as np

answers = {}
with open("inputs.pickle", "rb") as file:
    for name, batches in pickle.load(file).items():
        options = () if name == "serving_default" else (name,)
        answers[name] = [
            {key: np.asarray(value) for key, value in predict(batch, *options).items()}
            for batch in batches
        ]
with open("answers.pickle", "wb") as file:
    pickle.dump(answers, file)
loaded = {"app", "models", "horovod"} & set(sys.modules)
assert not loaded, f"the export needs {loaded}"
"""


@dataclasses.dataclass(frozen=True)
class Samples:
    """Rows of the dataset; the first ones are of `split` and have `labels`, int64 (scored, heads)
    with -1 for a missing one.

    `raw`: the rows as each kind of signature takes them; `ready`: as the network does, uint8
    images (n, h, w, c) or ragged int32 token ids (n, tokens), or a dict of such, as in training.
    """

    split: str
    split_examples: int
    labels: np.ndarray
    raw: dict[str, Any]
    ready: Any


def read_samples(run: SavedRun) -> Samples:
    """Up to MOST_ROWS of the test split, evenly spread; filled up from training to FEWEST_ROWS."""
    dataset = load_dataset(run.config.data, run.config.training.seed, BadExamples("skip"))
    splits = dataset.splits
    split = next(name for name in ("test", "validation", "train") if name in splits)
    source = splits[split]
    raw, ready, good = _read(run, source, MOST_ROWS)
    labels = by_head(np.asarray(source.labels)[good])
    if len(good) < FEWEST_ROWS:
        more, ready_too, _ = _read(run, splits["train"], FEWEST_ROWS - len(good))
        raw = {kind: [*rows, *more[kind]] for kind, rows in raw.items()}
        ready = tf.nest.map_structure(lambda *both: tf.concat(both, axis=0), ready, ready_too)
    if "array" in raw:
        raw["array"] = np.asarray(raw["array"])
    return Samples(split, len(source), labels, raw, ready)


def _read(run: SavedRun, source: Source, most: int) -> tuple[dict[str, Any], Any, np.ndarray]:
    """(raw, ready, their positions) of at most `most` rows; images that are damaged are left
    out, as in training."""
    rows = np.unique(np.linspace(0, len(source) - 1, min(most, len(source))).astype(np.int64))
    if run.kind == "text":
        texts = np.concatenate(list(text_chunks(source, rows)))
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        return {"text": encoded}, run.tokenizer.encode(texts)[0], rows
    content = source.read(rows)
    if isinstance(content, np.ndarray):
        encoded = [tf.io.encode_png(image).numpy() for image in content]
        if content.shape[1:] == run.image_shape:
            return {"bytes": encoded, "array": content}, content, rows
        content = encoded  # of another size, to be fitted as in training
    images, bad = decode_images(content, run.image_spec)
    good = np.setdiff1d(np.arange(len(rows)), [position for position, _ in bad])
    return {"bytes": [content[i] for i in good], "array": images}, images, rows[good]


def check_export(
    run: SavedRun,
    network: keras.Model,
    samples: Samples,
    path: Path,
    format: str,
    signatures: tuple[Signature, ...],
    exact: bool,
) -> tuple[Check, ...]:
    """Call every signature of the export at `path` and compare its answers with the network's.

    `exact`: probabilities may differ by no more than TOLERANCE; if not, by any amount. Returns for
    each label the signature's check that differs most. Raises UserError if the export cannot be
    loaded and called with TensorFlow alone, or gives other answers. Leaves its own files beside the
    export.
    """
    expected = _probabilities(run, network, samples.ready)
    inputs = {one.name: samples.raw[one.takes] for one in signatures}
    answers = _call_in_fresh_process(path, format, inputs)
    allowed = TOLERANCE if exact else 1.0
    found = []
    for number, head in enumerate(run.heads):
        labels = samples.labels[:, number]
        checks = [
            _compare(
                [one[name] for name in output_names(run, head)],
                expected[number],
                labels,
                samples,
                head,
                allowed,
            )
            for one in answers.values()
        ]
        most = max(checks, key=lambda check: check.largest_difference)
        label = head.name if len(run.heads) > 1 else ""
        found.append(dataclasses.replace(most, label=label))
    return tuple(found)


def _probabilities(run: SavedRun, network: keras.Model, ready: Any) -> list[np.ndarray]:
    """What the network says of each label: float32 (n, classes); on the CPU, as the check will."""
    found = []
    with tf.device("CPU"):
        for start in range(0, tf.nest.flatten(ready)[0].shape[0], BATCH_ROWS):
            rows = slice(start, start + BATCH_ROWS)
            part = padded(tf.nest.map_structure(operator.itemgetter(rows), ready))
            logits = tf.nest.flatten(network(part, training=False))
            found.append(
                [
                    tf.nn.softmax(calibrated(run, head, one)).numpy()
                    for head, one in zip(run.heads, logits, strict=True)
                ]
            )
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def _call_in_fresh_process(path: Path, format: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """The outputs for `inputs` of each signature, by name, (n, ...): first one row, then many."""
    directory = path.parent
    batches = {
        name: [rows[:1], *(rows[i : i + BATCH_ROWS] for i in range(1, len(rows), BATCH_ROWS))]
        for name, rows in inputs.items()
    }
    (directory / "inputs.pickle").write_bytes(pickle.dumps(batches))
    environ = {name: v for name, v in os.environ.items() if not name.startswith("PYTHON")}
    # No GPU: there TensorFlow multiplies in TF32 by default, which is another result.
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    code = LOADING[format].format(path=path.name) + CHECKING
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            cwd=directory,
            env={**environ, **quiet, "KERAS_BACKEND": "tensorflow"},
            capture_output=True,
            text=True,
            timeout=CHECK_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"the {format} export took more than {CHECK_TIMEOUT_S} s to check"
        ) from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UserError(f"the {format} export cannot be loaded and called again: {reason}")
    answers = pickle.loads((directory / "answers.pickle").read_bytes())
    return {
        name: {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        for name, parts in answers.items()
    }


def _compare(
    answers: list[np.ndarray],
    expected: np.ndarray,
    labels: np.ndarray,
    samples: Samples,
    head: Head,
    allowed: float,
) -> Check:
    """Compare probabilities (n, classes), classes (n,) and their names (n,) of one label, of which
    the first examples have `labels`.

    Raises UserError if the outputs do not fit together, or if a probability is further from
    `expected` than is `allowed`, or is no number.
    """
    probabilities, classes, shown = answers
    difference = float(np.abs(probabilities - expected).max())
    names = [head.class_names[i].encode() for i in classes]
    fits = (
        (probabilities.dtype, classes.dtype) == (np.float32, np.int64)
        and np.array_equal(probabilities.argmax(axis=1), classes)
        and names == shown.tolist()
    )
    if not fits or not difference <= allowed:
        raise UserError(
            f"the export gives other answers than the run (a probability differs by {difference}, "
            f"allowed is {allowed}), so it was not kept: please report this"
        )
    known = np.flatnonzero(labels != MISSING)

    def accuracy(predicted: np.ndarray) -> float:
        return float((predicted[known] == labels[known]).mean()) if len(known) else float("nan")

    return Check(
        samples.split,
        samples.split_examples,
        rows=len(expected),
        scored=len(known),
        largest_difference=difference,
        same_class=int((classes == expected.argmax(axis=1)).sum()),
        run_accuracy=accuracy(expected.argmax(axis=1)),
        export_accuracy=accuracy(classes),
    )
