"""A run that was trained, opened again: for evaluate, predict and export. Knows no worker."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from app import rundir
from app.build import build_classifier
from app.checkpoint import Checkpoints
from app.classifier import Classifier
from app.config import Config, rgb_of
from app.data.images import ImageSpec
from app.data.text.tokenizer import Tokenizer, tokenizer_from
from app.errors import UserError
from app.recipe import load


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """A run directory's config, dataset description (`dataset.json`) and newest weights.

    `position`: seed, step, epoch and examples_seen of the checkpoint.
    """

    directory: Path
    config: Config
    about: dict[str, Any]
    classifier: Classifier
    checkpoint: Path
    position: dict[str, int]

    @property
    def kind(self) -> str:
        """ "image" or "text"."""
        return self.about["kind"]

    @property
    def class_names(self) -> list[str]:
        """The name of each class id."""
        return self.about["class_names"]

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """Texts to token ids, as in training."""
        return tokenizer_from(self.about["tokenizer"])

    @property
    def image_spec(self) -> ImageSpec:
        """How encoded images become arrays of the model's size.

        Images of another size than those that it was trained on are fitted too.
        """
        height, width, channels = self.about["image_shape"]
        size = height if height == width else None
        data = self.config.data
        return ImageSpec(size, data.image_fit, channels, rgb_of(data.background))


def open_run(directory: Path) -> SavedRun:
    """The run in `directory`, with the weights of its newest checkpoint.

    Raises UserError if there is no run, no checkpoint, or one of its files is damaged.
    """
    saved = directory / "config.toml"
    if not saved.is_file():
        raise UserError(f"{directory} holds no run (no config.toml): give the directory of a run")
    config = load(saved, {})
    about = rundir.read_dataset(directory)
    try:
        classifier = build_classifier(config, about)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{directory / rundir.DATASET} cannot be read: {error!r}") from None
    checkpoints = Checkpoints(directory / "checkpoints", config.run.keep_checkpoints)
    checkpoint, position = checkpoints.restore_model(classifier)
    return SavedRun(directory, config, about, classifier, checkpoint, position)
