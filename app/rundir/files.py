"""Where everything is in a run directory. Knows names only: no config, no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from app.errors import UserError

CHECKPOINT_PREFIX = "step-"
OLD_PREFIX = "epoch-"  # of versions that kept one per epoch
STATE = "state.json"  # in a checkpoint: where the run is, and the checksum of the weights


@dataclass(frozen=True)
class RunFiles:
    """The files of a run; each exists only once it has been written."""

    directory: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.directory / "config.toml"

    @property
    def data_plan(self) -> Path:
        """What was decided about the data; long arrays are beside it."""
        return self.directory / "data_plan" / "plan.json"

    @property
    def bad_examples(self) -> Path:
        """The examples that were left out, one per line."""
        return self.directory / "bad_examples.jsonl"

    @property
    def checkpoints(self) -> Path:
        """A directory for each checkpoint."""
        return self.directory / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The results of the run; written at its end."""
        return self.directory / "metrics.json"

    @property
    def goodput(self) -> Path:
        """What went into steps that counted, over all starts."""
        return self.directory / "goodput.json"

    @property
    def logs(self) -> Path:
        """A log for each rank."""
        return self.directory / "logs"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files and profiles."""
        return self.directory / "tensorboard"

    @property
    def timeline(self) -> Path:
        """Horovod's collectives, with --timeline."""
        return self.directory / "timeline.json"

    @property
    def evaluations(self) -> Path:
        """A directory for each `evaluate`."""
        return self.directory / "evaluations"

    def calibration(self, checkpoint: str) -> Path:
        """How sure the model of a checkpoint should be; written by `calibrate`."""
        return self.directory / "calibration" / f"{checkpoint}.json"

    @property
    def exports(self) -> Path:
        """Exported models, each with its card."""
        return self.directory / "export"

    @property
    def lock(self) -> Path:
        """Says who is writing here now."""
        return self.directory / ".lock"

    def rank_log(self, rank: int) -> Path:
        """The log of one rank."""
        return self.logs / f"rank-{rank:03d}.log"

    def left_by_a_start(self) -> set[Path]:
        """What an interrupted first start leaves. Nothing that people keep is among it."""
        return {
            *(self.config, self.data_plan.parent, self.bad_examples, self.goodput),
            *(self.checkpoints, self.logs, self.tensorboard, self.timeline),
        }


def list_checkpoints(directory: Path) -> list[Path]:
    """The complete checkpoints in a directory, oldest first.

    One that was set aside counts until another has taken its name.

    Raises UserError if it holds only those of an older version of Lockstep.
    """
    aside = _numbered(directory, f".{CHECKPOINT_PREFIX}", ".old")
    by_step = aside | _numbered(directory, CHECKPOINT_PREFIX)
    found = [by_step[step] for step in sorted(by_step)]
    if not found and (by_epoch := _numbered(directory, OLD_PREFIX)):
        newest = by_epoch[max(by_epoch)]
        raise UserError(
            f"{newest} was written by an older version of Lockstep, which named checkpoints by "
            "epoch: use that version, or train again in another --run-dir"
        )
    return found


def _numbered(directory: Path, prefix: str, suffix: str = "") -> dict[int, Path]:
    """By their numbers, the paths whose names are the prefix, a number and the suffix."""
    names = {path: path.name[len(prefix) :] for path in directory.glob(f"{prefix}*{suffix}")}
    numbers = {path: name.removesuffix(suffix) for path, name in names.items()}
    return {int(number): path for path, number in numbers.items() if number.isdigit()}
