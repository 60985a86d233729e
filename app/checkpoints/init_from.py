"""Weights of another run, for one that begins: `init_from`.

A variable of the model is loaded where the source has one of the same path and shape. Two kinds of
rows have names, and go by these: those of an embedding belong to tokens, and those of the last
layer, of which there is one for each label, to classes. Loading them by number would give each
token the meaning of another one.

Knows a model, a data plan and files, but no workers: the chief loads, then all ranks get what it
has. Nothing of the optimizer is loaded, and no random generator.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import safetensors
import safetensors.numpy

from app.checkpoints.checkpoint import Checkpoints
from app.checkpoints.files import Damaged, read_files
from app.checkpoints.init_source import InitSource, find_source
from app.data.heads import Head
from app.data.plan import DataPlan
from app.data.text.tokenizer import first_listed
from app.errors import UserError
from app.monitor.logs import STORY
from app.state import SAVED, StateVariable, state_variables

MOST_SHOWN = 3  # variables that were left, in a table; the log has them all
# Keys of a saved tokenizer that do not change which token a piece of text is.
NO_RULES = ("vocabulary", "max_tokens")


@dataclasses.dataclass(frozen=True)
class InitReport:
    """What was loaded from `source`, a checkpoint or a file.

    `loaded`: paths of variables; `left`: a line for each that stays as it was initialised, with the
    reason; `notes`: what else to know, a line each.
    """

    source: Path
    loaded: list[str]
    left: list[str]
    notes: list[str]

    def __str__(self) -> str:
        """All that fits into a line or two."""
        total = len(self.loaded) + len(self.left)
        parts = [f"{len(self.loaded)} of {total} variables from {self.source}", *self.notes]
        if self.left:
            more = len(self.left) - MOST_SHOWN
            shown = [*self.left[:MOST_SHOWN], *([f"{more} more (see the log)"] if more > 0 else [])]
            parts.append(f"left as initialised: {', '.join(shown)}")
        return "; ".join(parts)


def load_weights(source: Path, model: keras.Model, plan: DataPlan) -> InitReport:
    """Put into `model` what fits of `source`, and say in the log what did not.

    `plan`: what was decided about the data that the model is to read. The model is changed only if
    all is well.

    Raises UserError if the source cannot be used (see `find_source`), is damaged, holds numbers
    that are not finite, or if none of its variables fits.
    """
    found = find_source(source, plan.kind)
    path, arrays = _arrays_of(found, source)
    fitting = _Fitting(model, plan, found)
    values: dict[str, np.ndarray] = {}
    left: list[str] = []
    entries = [entry for entry in state_variables(model) if entry.kind in SAVED]
    for entry in entries:
        value = fitting.value_of(entry, arrays)
        if isinstance(value, str):
            left.append(f"{entry.path} ({value})")
        elif not np.isfinite(value).all():
            raise UserError(
                f"{path}: '{entry.path}' holds numbers that are not finite: give another checkpoint"
            )
        else:
            values[entry.path] = value
    if not values:
        first = f": {left[0]}" if left else ""
        raise UserError(f"no variable of {path} fits this model{first}: is it another model?")
    for entry in entries:
        if entry.path in values:
            entry.variable.assign(values[entry.path])
    report = InitReport(path, list(values), left, fitting.notes)
    _log(report)
    return report


def _log(report: InitReport) -> None:
    STORY.info("weights from %s", report.source)
    for name in report.loaded:
        STORY.info("loaded: %s", name)
    for line in report.left:
        STORY.info("left as initialised: %s", line)
    for note in report.notes:
        STORY.info("%s", note)


def _arrays_of(found: InitSource, given: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """(the checkpoint or file, its arrays by path)."""
    if found.is_file:
        try:
            return found.place, safetensors.numpy.load_file(found.place)
        except (OSError, ValueError, TypeError, KeyError, safetensors.SafetensorError) as error:
            reason = f"init_from = '{given}' cannot be read as safetensors: {error}"
            raise UserError(reason) from None
    if not found.is_checkpoint:
        path, content = Checkpoints(found.place, keep=1).newest()
        return path, content.arrays
    try:
        return found.place, read_files(found.place).arrays
    except Damaged as reason:
        raise UserError(
            f"checkpoint {found.place} is damaged ({reason}): give another, or the directory of "
            "the run"
        ) from None


class _Fitting:
    """Finds for each variable of a model what it gets from arrays of another run.

    `here`: the data of the model; `source`: that run; `notes`: what there is to say, besides.
    """

    def __init__(self, model: keras.Model, here: DataPlan, source: InitSource):
        self._here, self._there = here, source.plan
        self._models = source.model, _network(model).name
        self._embeddings = token_variables(model, here)
        self._heads = class_variables(model, here.heads)
        self.notes = [] if source.plan is None else _differences(source.plan, here)

    def value_of(self, entry: StateVariable, arrays: Mapping[str, np.ndarray]) -> np.ndarray | str:
        """The new value, of the variable's shape and dtype; or why there is none."""
        if entry.path not in arrays:
            return "not there"
        array = arrays[entry.path]
        dtype = keras.backend.standardize_dtype(entry.variable.dtype)
        if np.issubdtype(array.dtype, np.integer) != np.issubdtype(dtype, np.integer):
            return f"{array.dtype} there, {dtype} here"
        if entry.path in self._embeddings and self._there is not None:
            value = self._by_token(entry, array, self._there)
        elif array.shape != tuple(entry.variable.shape):
            return _shapes(entry, array)
        elif entry.path in self._heads:
            value = self._by_class(array, self._heads[entry.path])
        else:
            value = array
        return value if isinstance(value, str) else value.astype(dtype)

    def _by_token(
        self, entry: StateVariable, array: np.ndarray, there: DataPlan
    ) -> np.ndarray | str:
        """The rows of tokens that both vocabularies have; the others as they are."""
        of_here, of_there = self._here.tokenizer, there.tokenizer
        assert of_here is not None
        assert of_there is not None
        if other := _other_rules(of_there, of_here):
            return other
        before = np.array(entry.variable.numpy())
        tokens, first = of_there["vocabulary"], first_listed(of_there)
        if array.shape != (len(tokens) + first, *before.shape[1:]):
            return _shapes(entry, array)
        row_there = {token: row for row, token in enumerate(tokens, first)}
        pairs = [(row, row) for row in range(first)] + [
            (row, row_there[token])
            for row, token in enumerate(of_here["vocabulary"], first)
            if token in row_there
        ]
        if len(pairs) == first:
            return "no token of this vocabulary is there"
        to, source = np.array(pairs).T
        before[to] = array[source]
        if new := len(before) - len(pairs):
            self.notes.append(
                f"{new:,} of {len(before):,} rows of {entry.path} as initialised, since their "
                "tokens are not there"
            )
        return before

    def _by_class(self, array: np.ndarray, head: Head) -> np.ndarray | str:
        """The last axis in the order of the classes here, of the label of the same name there; what
        it reads must mean the same too."""
        if self._there is None:
            note = "the classes of the last layer are not known, and were taken to be these"
            if note not in self.notes:
                self.notes.append(note)
            return array
        was, now = self._models
        if was != now:
            return f"reads the features of a {was} there, of a {now} here"
        of_there = dict(self._there.heads)
        if head.name not in of_there:
            return f"no label '{head.name}' there"
        names, wanted = of_there[head.name], head.class_names
        if differing := set(names) ^ set(wanted):
            return f"other classes: only one of the runs has '{min(differing)}'"
        number = {name: at for at, name in enumerate(names)}
        return array[..., [number[name] for name in wanted]]


def token_variables(model: keras.Model, plan: DataPlan) -> set[str]:
    """The paths of the variables that have a row for each token of the vocabulary."""
    if plan.tokenizer is None:
        return set()
    rows = len(plan.tokenizer["vocabulary"]) + first_listed(plan.tokenizer)
    layers = (one for one in model._flatten_layers() if isinstance(one, keras.layers.Embedding))
    return {layer.embeddings.path for layer in layers if layer.input_dim == rows}


def class_variables(model: keras.Model, heads: Sequence[Head]) -> dict[str, Head]:
    """The label whose classes are the last axis of a variable, by the paths of those variables of
    the last layers, of which each label has one, in this order."""
    layers = [layer for layer in _network(model).layers if layer.weights][-len(heads) :]
    return {
        one.path: head
        for layer, head in zip(layers, heads, strict=False)  # a network may have no weights
        for one in layer.weights
        if one.shape and one.shape[-1] == len(head.class_names)
    }


def _network(model: keras.Model) -> keras.Model:
    return getattr(model, "network", model)


def _other_rules(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """How two tokenizers differ in how texts become tokens, whatever the vocabulary; "" if not."""
    # Each kind has rules of its own, which there is no need to tell.
    rules = there.keys() | here.keys() if there["kind"] == here["kind"] else {"kind"}
    keys = [key for key in sorted(rules) if key not in NO_RULES and there.get(key) != here.get(key)]
    return ", ".join(f"{key} {there.get(key)} there, {here.get(key)} here" for key in keys)


def _shapes(entry: StateVariable, array: np.ndarray) -> str:
    return f"{array.shape} there, {tuple(entry.variable.shape)} here"


def _differences(there: DataPlan, here: DataPlan) -> list[str]:
    """What differs in the data, and can be seen in no variable."""
    found = []
    if there.image_shape and here.image_shape and there.image_shape != here.image_shape:
        sizes = [
            f"{width}x{height}x{c}" for height, width, c in (there.image_shape, here.image_shape)
        ]
        found.append(f"images are {sizes[0]} there, {sizes[1]} here")
    if there.name == here.name and there.fingerprint != here.fingerprint:
        found.append(
            f"{here.name} was split in another way there, or has changed: examples that are held "
            "out here may have been learned there, and results too good"
        )
    return found
