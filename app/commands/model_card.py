"""The model card beside an export (Mitchell et al. 2018, arXiv:1810.03993): what the model is, how
to load and call it, what it was trained on, how good it is, and what not to expect.

Knows a run and the results of the check of its export; writes nothing and needs no TensorFlow.
"""

import dataclasses
import datetime
import json
import platform
from pathlib import Path
from typing import Any

from app.commands.saved_run import SavedRun
from app.data.heads import Head
from app.evaluation.markdown import code, plain, table
from app.recipe import to_toml
from app.rundir.files import RunFiles
from models.heads import plain_name

CLASSES_SHOWN = 20

# How each format is loaded. The check of an export runs the same lines, so the card cannot lie.
# `predict(inputs)` gives the outputs by name.
LOADING = {
    "savedmodel": """\
import tensorflow as tf

model = tf.saved_model.load({path!r})


def predict(inputs, signature="serving_default"):
    return model.signatures[signature](inputs=tf.constant(inputs))
""",
    "keras": """\
import keras

model = keras.models.load_model({path!r})


def predict(inputs):
    return model(inputs)
""",
    "tflite": """\
import tensorflow as tf

runner = tf.lite.Interpreter({path!r}).get_signature_runner("serving_default")


def predict(inputs):
    return runner(inputs=inputs)
""",
}
CALLING = {
    "bytes": 'answer = predict([open("photo.jpg", "rb").read()])\n',
    "text": 'answer = predict(["a text", "and another"])\n',
    "array": "import numpy as np\n\nanswer = predict(np.zeros({shape}, np.uint8))\n",
}
PRINTING = "print({})\n"


def prefix_of(run: SavedRun, head: Head) -> str:
    """What the names of a label's outputs begin with, where there are several."""
    return f"{plain_name(head.name)}_" if len(run.heads) > 1 else ""


def output_names(run: SavedRun, head: Head) -> tuple[str, str, str]:
    """The names of the probabilities, the class and its name that an export gives for a label."""
    prefix = prefix_of(run, head)
    return f"{prefix}probabilities", f"{prefix}class", f"{prefix}label"


@dataclasses.dataclass(frozen=True)
class Signature:
    """A way to call an export with one tensor called `inputs`.

    `takes`: "bytes" (encoded images), "text" (UTF-8) or "array" (uint8 images).
    """

    name: str
    takes: str


@dataclasses.dataclass(frozen=True)
class Check:
    """What a fresh process found when it loaded an export and compared it with the run.

    `rows` were compared. The first `scored` of them, from `split` (of `split_examples`), give the
    accuracies; `largest_difference` is over all probabilities. `label`: of which this is, where
    there are several; then `scored` have it.
    """

    split: str
    split_examples: int
    rows: int
    scored: int
    largest_difference: float
    same_class: int
    run_accuracy: float
    export_accuracy: float
    label: str = ""

    def __str__(self) -> str:
        of_label = f"{self.label}: " if self.label else ""
        return (
            f"{of_label}{self.rows} rows, "
            f"largest difference in a probability {self.largest_difference:.1e}, "
            f"{self.same_class} with the same class; accuracy on {self.scored} of "
            f"{self.split_examples} in {self.split}: {self.export_accuracy:.2%}, the run's "
            f"{self.run_accuracy:.2%}"
        )


@dataclasses.dataclass(frozen=True)
class Export:
    """An export that has passed its checks, one for each label; `path` is its final name."""

    path: Path
    format: str
    quantize: str | None
    signatures: tuple[Signature, ...]
    size_bytes: int
    checks: tuple[Check, ...]

    @property
    def checked(self) -> str:
        """What the checks found, for people."""
        return "; ".join(map(str, self.checks))


def model_card(run: SavedRun, export: Export, versions: dict[str, str]) -> str:
    """The card in Markdown; `versions`: of the packages and the code that made the export."""
    sections = {
        "Use": _use(run, export),
        "Check of this export": _check(export),
        "Data": _data(run),
        "Results of the run": _results(run),
        "Limitations": "".join(f"- {one}\n" for one in _limitations(run, export)),
        "Training": _training(run, versions),
    }
    about = f"`{run.config.model.model}`, trained with Lockstep on {plain(run.plan.name)}"
    what = f"{len(run.class_names)} classes"
    if len(run.heads) > 1:
        what = f"{len(run.heads)} labels"
    title = f"# {plain(export.path.name)}: {what} of {run.kind}s"
    parts = [title, f"{about}.", *(f"## {name}\n\n{text}" for name, text in sections.items())]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _use(run: SavedRun, export: Export) -> str:
    """Signatures with shapes, and code that runs with TensorFlow alone."""
    image = list(run.plan.image_shape or ())
    takes = {
        "bytes": ("string (B,)", "the bytes of JPEG, PNG, GIF, BMP or WebP files"),
        "text": ("string (B,)", f"UTF-8{_joined(run)}"),
        "array": (f"uint8 (B, {', '.join(map(str, image))})", "pixels of 0 to 255"),
    }
    rows = [
        [f"`{s.name}`", f"`inputs`: {takes[s.takes][0]}, {takes[s.takes][1]}"]
        for s in export.signatures
    ]
    calling = CALLING[export.signatures[0].takes].format(shape=tuple([1, *image]))
    program = LOADING[export.format].format(path=export.path.name) + "\n\n" + calling
    for head in run.heads:
        shares, number, name = output_names(run, head)
        program += PRINTING.format(", ".join(f'answer["{one}"]' for one in (name, number, shares)))
    return (
        f"{export.format}, {export.size_bytes:,} bytes. Needs only TensorFlow; preprocessing is "
        f"inside; B is any number.\n\n```python\n{program}```\n\n"
        f"{table(['signature', 'takes'], rows)}\n\n"
        f"All return {_returned(run)}.\n{_calibration(run)}"
    )


def _calibration(run: SavedRun) -> str:
    """By what the logits were divided, if the run is calibrated."""
    each = [f"{value:.3f} ({plain(name)})" for name, value in run.temperatures.items()]
    if not each:
        return ""
    by = ", ".join(each) if len(each) > 1 else f"{next(iter(run.temperatures.values())):.3f}"
    return (
        f"\nProbabilities are calibrated: logits are divided by {by}, which was found on the "
        "run's validation split (arXiv:1706.04599).\n"
    )


def _returned(run: SavedRun) -> str:
    """The outputs, for people."""
    each = []
    for head in run.heads:
        shares, number, name = output_names(run, head)
        each.append(
            f"`{shares}` float32 (B, {len(head.class_names)}), `{number}` int64 (B,), the "
            f"most probable class, and `{name}` string (B,), its name"
        )
    return "; ".join(each)


def _joined(run: SavedRun) -> str:
    """How a text is made from several columns."""
    names = (run.config.data.input_key or "").split(",")
    shown = ", ".join(f"`{name.strip()}`" for name in names)
    return f": {shown} in this order, joined by one space" if len(names) > 1 else ""


def _check(export: Export) -> str:
    quantized = f" Weights are quantised to {export.quantize}." if export.quantize else ""
    return (
        "Loaded in a fresh process with only TensorFlow and compared with the run's own "
        f"classifier: {export.checked}.{quantized}\n"
    )


def _data(run: SavedRun) -> str:
    splits = ", ".join(f"{number:,} {split}" for split, number in run.plan.examples.items())
    option = code(f"--dataset {run.config.data.dataset}")
    return (
        f"- name: {plain(run.plan.name)}, {option}\n"
        f"- fingerprint: {run.plan.fingerprint}\n- examples: {splits}\n"
        + "".join(_classes(run, head) for head in run.heads)
        + "".join(f"- read as: {plain(one)}\n" for one in run.plan.read_as)
    )


def _classes(run: SavedRun, head: Head) -> str:
    names = head.class_names
    shown = ", ".join(map(plain, names[:CLASSES_SHOWN]))
    more = f" and {len(names) - CLASSES_SHOWN} more" if len(names) > CLASSES_SHOWN else ""
    of_label = f" of {plain(head.name)}" if len(run.heads) > 1 else ""
    return f"- classes{of_label}: {shown}{more}\n"


def _results(run: SavedRun) -> str:
    metrics = _metrics(run)
    if not metrics:
        return "No metrics.json yet: the run has not ended.\n"
    for label, found in metrics.pop("test_heads", {}).items():
        metrics |= {f"test_{name}, {label}": value for name, value in found.items()}
    rows = [[plain(name), plain(_shown(value))] for name, value in metrics.items()]
    shown = table(["metric", "value"], rows) + "\n"
    if metrics.get("step") == run.position["step"]:
        return shown
    return (
        f"These are of the end of the run, but this export is checkpoint {run.checkpoint.name}: "
        f"`python -m app evaluate RUN --checkpoint {run.checkpoint.name}` scores that one.\n\n"
        + shown
    )


def _metrics(run: SavedRun) -> dict[str, Any]:
    try:
        return json.loads(RunFiles(run.directory).metrics.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_shown(one)}" for name, one in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _limitations(run: SavedRun, export: Export) -> list[str]:
    of_each = ", for each label" if len(run.heads) > 1 else ""
    found = [
        f"Every input gets one of the classes above{of_each}, even if it belongs to none of them.",
        "It is only as good as its data: the results above say nothing about other kinds of input.",
    ]
    if run.kind == "text":
        tokenizer = run.tokenizer
        found.append(
            f"Reads the first {tokenizer.max_tokens - tokenizer.added} {tokenizer.unit} of a text; "
            f"what is not among the {tokenizer.summary} counts as unknown."
        )
    if "bytes" in {signature.takes for signature in export.signatures}:
        spec, (height, width, _) = run.image_spec, run.image_shape
        fitted = f'are fitted ("{spec.fit}")' if spec.size else "are refused"
        found.append(
            "Files are turned upright according to their EXIF data (JPEG, PNG, WebP), and "
            f"transparency becomes {run.config.data.background}; then images that are not "
            f"{width}x{height} {fitted}. Only the first frame of an animation counts. One damaged "
            "image fails its whole batch."
        )
    if run.kind == "image":
        found.append(
            "Arrays are taken as they are: turn images upright, and put transparent ones on "
            f"{run.config.data.background}, before you pass them."
        )
    if run.config.training.precision != "float32":
        found.append(
            f"Trained in {run.config.training.precision}, exported in float32, and compared "
            "with the run's weights in float32."
        )
    if export.quantize:
        found.append("Quantised: probabilities differ from the run's, as the check above shows.")
    return found


def _begins(run: SavedRun) -> str:
    """The pretrained weights, if the run began with any."""
    if run.plan.pretrained is None:
        return ""
    return (
        f"- began with the pretrained weights {plain(str(run.config.model.pretrained))}, SHA-256 "
        f"{run.plan.pretrained['sha256']}: their licence holds for this model too\n"
    )


def _weights(run: SavedRun) -> str:
    """Which weights these are, if the run has two."""
    if not run.uses:
        return ""
    of = f"moving average over about {run.config.training.ema_examples:,} examples"
    return f"- weights: {of if run.uses == 'ema' else 'of the last step, not their average'}\n"


def _training(run: SavedRun, versions: dict[str, str]) -> str:
    metrics, now = _metrics(run), datetime.datetime.now(datetime.UTC)
    used = ", ".join(f"{name} {version}" for name, version in versions.items())
    seconds = f", {metrics['seconds']:.1f} s" if "seconds" in metrics else ""
    return (
        f"- run: {plain(run.directory.name)}, checkpoint {run.checkpoint.name}, "
        f"step {run.position['step']:,}\n"
        f"{_begins(run)}{_weights(run)}"
        f"- world: {metrics.get('world_size', 'unknown')} rank(s){seconds}\n"
        f"- exported: {now:%Y-%m-%d %H:%M} UTC with Python {platform.python_version()}, {used}\n\n"
        f"```toml\n{to_toml(run.config).strip()}\n```\n"
    )
