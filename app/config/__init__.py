"""What a run is: every key, typed and validated, a file for each group of sections.

The one source of truth for defaults, help texts and valid values. Keys are unique over all
sections, so that the key `learning_rate` of `[optimizer]` is the flag `--learning-rate`. recipe.py
reads recipes and flags.
"""

from pathlib import Path
from typing import Literal

from app.config.data import Augmentation, Data
from app.config.distribution import Distribution
from app.config.learning import (
    BATCH_SIZES,
    DEFAULT_PER_RANK_BATCH_SIZE,
    FineTuning,
    Model,
    Optimizer,
    Training,
)
from app.config.run import Run
from app.config.section import Section
from app.errors import UserError, suggest

COMMIT_STEPS = 1000

__all__ = [
    "BATCH_SIZES",
    "DEFAULT_PER_RANK_BATCH_SIZE",
    "Augmentation",
    "Config",
    "Data",
    "Distribution",
    "FineTuning",
    "Model",
    "Optimizer",
    "Run",
    "Section",
    "Training",
    "section_of",
    "sections",
]


class Config(Section):
    """Everything that defines a run."""

    data: Data = Data()
    augmentation: Augmentation = Augmentation()
    model: Model = Model()
    training: Training = Training()
    optimizer: Optimizer = Optimizer()
    fine_tuning: FineTuning = FineTuning()
    distribution: Distribution = Distribution()
    run: Run = Run()

    def facts(self) -> dict[str, str]:
        """Every key and its value, for ranks to compare."""
        return {
            f"config key '{key}'": repr(value)
            for name in sections()
            for key, value in getattr(self, name).model_dump().items()
        }

    @property
    def commit_steps(self) -> int:
        """Optimizer steps between commit points inside an epoch: those asked for, or the first
        multiple of a round from 1000 on."""
        of_round = self.distribution.sync_every_steps or 1
        return self.run.commit_every_steps or -(-COMMIT_STEPS // of_round) * of_round

    @property
    def watched(self) -> Literal["loss", "accuracy"]:
        """What of validation says how good a model is, for early stopping."""
        return "loss" if self.run.keep_best == "none" else self.run.keep_best

    def in_directory(self, directory: Path) -> "Config":
        """The same run, kept in `directory`."""
        return self.model_copy(update={"run": self.run.model_copy(update={"run_dir": directory})})


def sections() -> dict[str, type[Section]]:
    """The tables of a recipe, in order."""
    return {name: field.annotation for name, field in Config.model_fields.items()}  # type: ignore[misc]


def section_of(key: str) -> str:
    """The table that holds `key`; raises UserError with the nearest key for an unknown one."""
    for name, section in sections().items():
        if key in section.model_fields:
            return name
    keys = [key for section in sections().values() for key in section.model_fields]
    raise UserError(f"unknown key '{key}': {suggest(key, keys)}")
