"""What a run may begin from with `init_from`: found and checked before TensorFlow is loaded.

A source is the directory of a run, one of its checkpoints, or a .safetensors file. The weights of a
run come with what they mean: its data plan names the tokens of the embedding and the classes of the
last layer. Of a file that lies outside of a run nothing is known.
"""

import dataclasses
import os
from pathlib import Path

from app.data.plan import DataPlan
from app.errors import UserError
from app.recipe import load
from app.rundir import contents
from app.rundir.files import STATE, RunFiles, list_checkpoints

SUFFIX = ".safetensors"


@dataclasses.dataclass(frozen=True)
class InitSource:
    """`place`: a directory of checkpoints, of which the newest sound one is meant, one checkpoint,
    or a file; of the run that it belongs to, None if not known, `model`: the name of the network,
    and `plan`: what was decided about the data."""

    place: Path
    model: str | None = None
    plan: DataPlan | None = None

    @property
    def is_file(self) -> bool:
        """Whether it is a bare file, without the checksum of a checkpoint."""
        return self.place.is_file()

    @property
    def is_checkpoint(self) -> bool:
        """Whether it is one checkpoint, and not the directory of them all."""
        return (self.place / STATE).is_file()


def find_source(path: Path, kind: str) -> InitSource:
    """What there is at `path` for a model that reads `kind`, "image" or "text".

    Raises UserError if nothing can be loaded from it: it does not exist, is of none of the three
    sorts, holds no checkpoint, was trained on data of another kind, or is for texts and does not
    say which token each row of its embedding belongs to.
    """
    source = _look_at(path)
    if source.plan is None and kind == "text":
        raise UserError(
            f"init_from = '{path}' lies outside of a run, so it is not known which token each row "
            "of its embedding belongs to: give the directory of the run"
        )
    if source.plan is not None and source.plan.kind != kind:
        raise UserError(
            f"init_from = '{path}' was trained on {source.plan.kind}s, but the model of this run "
            f"reads {kind}s: give a run on {kind}s"
        )
    return source


def _look_at(path: Path) -> InitSource:
    if not path.exists():
        raise UserError(f"init_from = '{path}' does not exist: give a run, checkpoint or file")
    if path.is_file():
        if path.suffix != SUFFIX:
            raise UserError(
                f"init_from = '{path}' is not a {SUFFIX} file: give one, or the directory of a run"
            )
        in_checkpoint = (path.parent / STATE).is_file()
        return _checkpoint(path.parent) if in_checkpoint else InitSource(path)
    if (path / STATE).is_file():
        return _checkpoint(path)
    files = RunFiles(path)
    if not files.config.is_file():
        raise UserError(
            f"init_from = '{path}' is neither a run (no {files.config.name}) nor a checkpoint (no "
            f"{STATE}): give one of these, or a {SUFFIX} file"
        )
    if not list_checkpoints(files.checkpoints):
        raise UserError(f"init_from = '{path}' holds no checkpoint: the run has not saved one yet")
    return _of_run(files.checkpoints, path)


def _checkpoint(path: Path) -> InitSource:
    run = Path(os.path.abspath(path)).parent.parent
    return _of_run(path, run) if RunFiles(run).config.is_file() else InitSource(path)


def _of_run(place: Path, run: Path) -> InitSource:
    return InitSource(place, load(RunFiles(run).config, {}).model.model, contents.saved_plan(run))
