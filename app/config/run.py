"""[run]: where a run is kept and how often it reports."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from app.config.section import Section
from app.config.values import Positive


class Run(Section):
    """[run]: where the run is kept and how often it reports."""

    run_dir: Path | None = Field(
        None, description="directory of the run (default runs/DATASET-MODEL-DATE-TIME)"
    )
    log_every_steps: Positive = Field(20, description="steps between points in TensorBoard")
    histograms: bool = Field(
        False, description="weights and gradients in TensorBoard after each epoch (needs memory)"
    )
    commit_every_steps: Positive | None = Field(
        None,
        description="optimizer steps between commit points, where ranks agree on one state and a "
        "checkpoint may be kept; every epoch ends with one (default 1000, or the next multiple of "
        "sync_every_steps)",
    )
    checkpoint_every_commits: Positive = Field(
        1, description="commit points between checkpoints; every epoch ends with one"
    )
    checkpoint_every_minutes: Annotated[float, Field(gt=0)] | None = Field(
        None, description="also one at the first commit point after so many minutes"
    )
    keep_checkpoints: Positive = Field(2, description="how many of the newest to keep")
    keep_best: Literal["none", "loss", "accuracy"] = Field(
        "none",
        description="keep also the one of the epoch with the best validation of this kind; with "
        "several labels the loss of all, or the accuracy of the first",
    )
