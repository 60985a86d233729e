"""What a run is: every key, typed and validated.

The one source of truth for defaults, help texts and valid values. Keys are unique over all
sections, so that the key `learning_rate` of `[optimizer]` is the flag `--learning-rate`. recipe.py
reads recipes and flags.
"""

from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from app.config_values import Color, Encoding, Positive, Separator, Share, SplitOrShare
from app.distributed.reducers import COMPRESSIONS
from app.errors import UserError, suggest
from models.table import MODELS, names_of

DEFAULT_PER_RANK_BATCH_SIZE = 32
BATCH_SIZES = ("per_rank_batch_size", "global_batch_size")


class Section(pydantic.BaseModel):
    """A TOML table; unknown keys are refused."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Data(Section):
    """[data]: what to learn from."""

    dataset: str = Field(
        "digits",
        description="digits, pydocs (embedded), synthetic-image, synthetic-text, a .csv, .tsv, "
        ".jsonl, .json or .parquet file, a folder of images by class, a TFDS name or directory",
    )
    data_dir: Path | None = Field(
        None,
        description="where TFDS datasets are or will be prepared; files and folders are relative "
        "to it",
    )
    train: str = Field("train", description="TFDS split to train on, e.g. 'train[:90%%]'")
    validation: SplitOrShare | None = Field(
        None,
        description="TFDS split, file or folder to validate on after each epoch, or the share "
        "held out from training, stratified (0: none; default: the dataset's own, otherwise 0.1)",
    )
    test: SplitOrShare | None = Field(
        None,
        description="TFDS split, file or folder to evaluate at the end, or the share held out "
        "(default: the dataset's own, otherwise 0.1)",
    )
    input_key: str | None = Field(
        None,
        description="feature or column that holds the image or text; or columns of texts to join "
        "with a space between them, such as title,body (default: found)",
    )
    label_key: str | None = Field(
        None,
        description="feature or column that holds the label (default: found, or 'label')",
    )
    case_sensitive_classes: bool = Field(
        False,
        description="treat names that differ only in case, such as 'A' and 'a', as two classes "
        "(otherwise they are refused: usually it is one class, misspelt)",
    )
    header: bool = Field(
        True,
        description="whether the first line of a .csv or .tsv names the columns; if not, they are "
        "called 1, 2, ...",
    )
    separator: Separator | None = Field(
        None,
        description="separator of the columns of a .csv or .tsv, or 'tab' (default: found)",
    )
    encoding: Encoding = Field(
        "utf-8",
        description="encoding of text tables, such as cp1252, utf-16, gb18030 or shift_jis",
    )
    image_size: Positive | None = Field(
        None, description="resize images to squares of this many pixels (needed if sizes are mixed)"
    )
    image_fit: Literal["crop", "stretch", "pad"] = Field(
        "crop", description="how an image of another shape becomes a square of image_size"
    )
    background: Color = Field(
        "white",
        description="the colour behind transparent images: a CSS name, or '#rrggbb'",
    )
    hold: Literal["auto", "memory", "stream"] = Field(
        "auto",
        description="keep examples in memory, or read them from their files when needed (auto: in "
        "memory if all of a host's ranks fit in half of the free memory)",
    )
    on_bad: Literal["error", "skip"] = Field(
        "error",
        description="a bad file or row ends the run, or is left out and listed in "
        "bad_examples.jsonl (at most 5%% of them)",
    )
    tokens: Literal["words", "characters"] = Field(
        "words",
        description="what a text is split into (each character of a script without spaces, such as "
        "Chinese or Thai, is a word, and so is an emoji)",
    )
    vocabulary_size: Annotated[int, Field(ge=3)] = Field(
        20_000, description="the most tokens in the vocabulary, including padding and unknown"
    )
    ngrams: Annotated[int, Field(ge=1, le=3)] = Field(
        1, description="tokens are runs of up to this many words or characters"
    )
    max_tokens: Positive = Field(256, description="longer texts are cut")


class Augmentation(Section):
    """[augmentation]: random changes to training images, never to those that are evaluated."""

    flip: Literal["none", "horizontal", "both"] = Field(
        "none", description="mirror half of the images left to right, or in both directions"
    )
    crop_padding: Annotated[int, Field(ge=0)] = Field(
        0, description="pad by this many pixels and crop to the old size at random"
    )
    auto_augment: Literal["none", "trivialaugment"] = Field(
        "none", description="one of 14 operations at a random strength on each image"
    )
    random_erasing: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="the probability that a rectangle is blanked out"
    )
    mixup: Annotated[float, Field(ge=0)] = Field(
        0.0, description="blend pairs of images and labels; alpha of Beta(alpha, alpha), 0: off"
    )
    cutmix: Annotated[float, Field(ge=0)] = Field(
        0.0, description="paste in part of another image; alpha as for mixup, 0: off"
    )

    @property
    def is_on(self) -> bool:
        """Whether images are changed at all."""
        return self != Augmentation()


class Model(Section):
    """[model]: the network."""

    model: Literal[tuple(MODELS)] = Field(  # type: ignore[valid-type]
        "cnn",
        description=f"{', '.join(names_of('image'))} read images, {', '.join(names_of('text'))} "
        "texts",
    )
    width: Positive | None = Field(
        None, description="filters or embedding width (default: the model's own)"
    )
    dropout: Share | None = Field(None, description="dropout rate (default: the model's own)")
    init_from: Path | None = Field(
        None,
        description="begin with the weights of this run, checkpoint or .safetensors file, where "
        "names and shapes are equal",
    )


class Training(Section):
    """[training]: how long, in which batches, in which precision."""

    epochs: Positive = Field(10, description="passes over the training data")
    per_rank_batch_size: Positive | None = Field(
        None,
        description="examples per rank and pass (default 32 if neither size is given, halved until "
        "a step fits the training data)",
    )
    global_batch_size: Positive | None = Field(
        None, description="examples per optimizer step over all ranks and passes"
    )
    backward_passes_per_step: Positive = Field(
        1, description="accumulate gradients over this many passes before each exchange"
    )
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = Field(
        "float32", description="Keras dtype policy"
    )
    label_smoothing: Share = Field(0.0, description="share of each label spread over all classes")
    imbalance: Literal["none", "class_weights", "balanced_sampling"] = Field(
        "none",
        description="for classes of unequal size: weight each class's loss by examples / (classes "
        "x its examples), or draw every class equally often (not every example once)",
    )
    stop_after_bad_steps: Positive = Field(
        10,
        description="end the run after so many steps in a row with a loss or gradients that "
        "are not finite; each is left out on all ranks",
    )
    on_loss_spike: Literal["go_on", "go_back"] = Field(
        "go_on",
        description="when the loss jumps: only say so, or go back to the last checkpoint and on "
        "from there at half the learning rate",
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        0, description="seed of the initial weights, data order, dropout, augmentation and hold-out"
    )

    @pydantic.model_validator(mode="after")
    def _one_batch_size(self) -> "Training":
        if self.per_rank_batch_size and self.global_batch_size:
            raise ValueError("give per_rank_batch_size or global_batch_size, not both")
        return self

    def examples_per_step(self, world_size: int) -> int:
        """Examples of all ranks and passes in one optimizer step."""
        per_rank = self.examples_per_rank * self.backward_passes_per_step
        return self.global_batch_size or per_rank * world_size

    @property
    def examples_per_rank(self) -> int:
        """Examples of one rank and pass, where no global size is given."""
        return self.per_rank_batch_size or DEFAULT_PER_RANK_BATCH_SIZE


class Optimizer(Section):
    """[optimizer]: the update rule and the learning rate over time."""

    optimizer: Literal["sgd", "adam", "lamb"] = Field("adam", description="update rule")
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        1e-3, description="peak, for a global batch of reference_batch_size"
    )
    learning_rate_scaling: Literal["linear", "sqrt", "none"] = Field(
        "linear", description="how the peak grows with global batch / reference batch"
    )
    reference_batch_size: Positive = Field(
        64, description="the global batch that learning_rate is meant for"
    )
    schedule: Literal["constant", "cosine", "step"] = Field(
        "cosine", description="after warm-up: constant, cosine to 0, or factors at epochs"
    )
    warmup_epochs: Annotated[float, Field(ge=0)] = Field(
        0.0, description="epochs of linear rise from 0 to the peak (may be a fraction)"
    )
    step_epochs: list[float] = Field(
        [], description="schedule 'step': the epochs at which the rate is multiplied"
    )
    step_factor: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="schedule 'step': the factor"
    )
    momentum: Share = Field(0.9, description="momentum of sgd")
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        0.0, description="decoupled decay of weight matrices (not of biases or BatchNorm)"
    )
    clip_norm: Annotated[float, Field(gt=0)] | None = Field(
        None, description="clip the global gradient to this norm"
    )

    @pydantic.model_validator(mode="after")
    def _steps_match_schedule(self) -> "Optimizer":
        if bool(self.step_epochs) != (self.schedule == "step"):
            raise ValueError("step_epochs goes with schedule = 'step', which needs it")
        return self


class Distribution(Section):
    """[distribution]: how ranks exchange gradients and prove that they agree."""

    compression: Literal[tuple(COMPRESSIONS)] = Field(  # type: ignore[valid-type]
        "none", description="of gradients on the wire"
    )
    aggregation: Literal["weighted", "average"] = Field(
        "weighted", description="weigh ranks by their examples, or all equally"
    )
    sparse_as_dense: bool = Field(
        True, description="exchange gradients of embeddings as dense tensors, or gather their rows"
    )
    bucket_mb: Annotated[float, Field(gt=0)] = Field(
        25.0, description="exchange gradients in buckets of this many megabytes"
    )
    shard_by: Literal["iid", "label", "dirichlet"] = Field(
        "iid",
        description="deal each batch evenly, or give each rank its own classes, or shares of each "
        "class drawn from Dirichlet(dirichlet_alpha), as in studies of federated learning",
    )
    dirichlet_alpha: Annotated[float, Field(gt=0)] = Field(
        0.5, description="shard_by 'dirichlet': the smaller, the more uneven"
    )
    guard_every_steps: Positive = Field(
        100, description="compare all replicated variables between ranks every so many steps"
    )
    on_drift: Literal["stop", "repair"] = Field(
        "stop",
        description="when ranks differ: end the run, or give all the variables of the majority "
        "(without one, as with 2 ranks, the run ends)",
    )
    step_timeout_s: Annotated[float, Field(gt=0)] = Field(
        120.0,
        description="seconds without progress, in a step or at a commit point, after which a "
        "rank counts as stuck",
    )
    phase_timeout_s: Annotated[float, Field(gt=0)] = Field(
        600.0, description="the same in preparation, first trace, validation and test"
    )


class Run(Section):
    """[run]: where the run is kept and how often it reports."""

    run_dir: Path | None = Field(
        None, description="directory of the run (default runs/DATASET-MODEL-DATE-TIME)"
    )
    log_every_steps: Positive = Field(20, description="steps between points in TensorBoard")
    histograms: bool = Field(
        False, description="weights and gradients in TensorBoard after each epoch (needs memory)"
    )
    commit_every_steps: Positive = Field(
        1000,
        description="optimizer steps between commit points, where ranks agree on one state and a "
        "checkpoint may be kept; every epoch ends with one",
    )
    checkpoint_every_commits: Positive = Field(
        1, description="commit points between checkpoints; every epoch ends with one"
    )
    checkpoint_every_minutes: Annotated[float, Field(gt=0)] | None = Field(
        None, description="also one at the first commit point after so many minutes"
    )
    keep_checkpoints: Positive = Field(2, description="how many of the newest to keep")
    keep_best: Literal["none", "loss", "accuracy"] = Field(
        "none", description="keep also the one of the epoch with the best validation of this kind"
    )


class Config(Section):
    """Everything that defines a run."""

    data: Data = Data()
    augmentation: Augmentation = Augmentation()
    model: Model = Model()
    training: Training = Training()
    optimizer: Optimizer = Optimizer()
    distribution: Distribution = Distribution()
    run: Run = Run()

    def facts(self) -> dict[str, str]:
        """Every key and its value, for ranks to compare."""
        return {
            f"config key '{key}'": repr(value)
            for name in sections()
            for key, value in getattr(self, name).model_dump().items()
        }

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
