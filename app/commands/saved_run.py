"""A run that was trained, opened again: for evaluate, predict and export. Knows no worker."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.build import build_classifier
from app.checkpoints.checkpoint import Checkpoints
from app.classifier import Classifier
from app.config import Config
from app.data.heads import Head
from app.data.images import ImageSpec, spec_of
from app.data.plan import DataPlan
from app.data.text.tokenizer import Tokenizer, tokenizer_from
from app.errors import UserError
from app.evaluation.calibration import read_temperatures
from app.recipe import load
from app.rundir import contents
from app.rundir.files import RunFiles


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """A run directory's config, what was decided about its data, and the weights of a checkpoint.

    `position`: seed, step, epoch and examples_seen of the checkpoint; `weights`: the SHA-256 of its
    arrays; `temperatures`: by the name of each label, empty if `calibrate` has not found any;
    `uses`: of a run with a moving average of the weights "ema" or "last", "" of others.
    """

    directory: Path
    config: Config
    plan: DataPlan
    classifier: Classifier
    checkpoint: Path
    position: dict[str, int]
    weights: str
    temperatures: Mapping[str, float]
    uses: str = ""

    @property
    def identity(self) -> str:
        """What tells these weights from all others."""
        return _identity(self.weights, self.uses)

    @property
    def kind(self) -> str:
        """ "image" or "text"."""
        return self.plan.kind

    @property
    def class_names(self) -> list[str]:
        """The name of each class id of the first label."""
        return list(self.plan.class_names)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The labels that it has learned; one where there is one."""
        return self.plan.heads

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of what a model of images reads."""
        assert self.plan.image_shape
        return self.plan.image_shape

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """Texts to token ids, as in training."""
        assert self.plan.tokenizer
        return tokenizer_from(self.plan.tokenizer)

    @property
    def image_spec(self) -> ImageSpec:
        """How encoded images become arrays of the model's size.

        Images of another size than those that it was trained on are fitted too.
        """
        return spec_of(self.config.data, self.image_shape)


def calibrated(run: SavedRun, head: Head, logits: Any) -> Any:
    """Logits (n, classes) of a label, from which `softmax` makes probabilities that can be relied
    on, if the run is calibrated."""
    temperature = run.temperatures.get(head.name)
    return logits if temperature is None else logits / temperature


def open_run(directory: Path, checkpoint: str = "newest", weights: str | None = None) -> SavedRun:
    """The run in `directory`, with the weights of a checkpoint: "newest", "best", or its name.

    `weights`: their moving average ("ema") or the last ones ("last"); None: the average, if the run
    keeps one.

    Raises UserError if there is no run, no such checkpoint, no such weights, or one of its files is
    damaged.
    """
    files = RunFiles(directory)
    if not files.config.is_file():
        name = files.config.name
        raise UserError(f"{directory} holds no run (no {name}): give the directory of a run")
    config = load(files.config, {})
    plan = contents.saved_plan(directory)
    try:
        classifier = build_classifier(config, plan)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{files.data_plan} cannot be read: {error!r}") from None
    kept = Checkpoints(files.checkpoints, config.run.keep_checkpoints, config.run.keep_best)
    path, position, digest = kept.restore_model(classifier, checkpoint)
    uses = _choose_weights(classifier, weights, path)
    temperatures = read_temperatures(
        files.calibration(path.name), _identity(digest, uses), plan.heads
    )
    return SavedRun(directory, config, plan, classifier, path, position, digest, temperatures, uses)


def _identity(digest: str, uses: str) -> str:
    return f"{digest} {uses}".strip()


def _choose_weights(classifier: Classifier, wanted: str | None, path: Path) -> str:
    """Put the moving average into the network, if it is there and not unwanted; see `uses`."""
    average = classifier.weight_average
    is_there = average is not None and average.is_there
    if wanted == "ema" and not is_there:
        raise UserError(
            f"--weights ema: {path} holds no moving average; its run was trained without "
            "--ema-examples"
        )
    if average is None:
        return ""
    if not is_there or wanted == "last":
        return "last"
    average.put()
    return "ema"
