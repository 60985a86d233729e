"""What a run is: typed, validated, from defaults, a TOML recipe and flags, in that order.

The one source of truth for defaults, help texts and valid values. Keys are unique over all
sections, so that the key `learning_rate` of `[optimizer]` is the flag `--learning-rate`. Knows
nothing of TensorFlow, so that a mistake is answered at once.
"""

import argparse
import json
import tomllib
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from app.errors import UserError, suggest

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
# From a flag everything is text: what reads as a number is a share.
SplitOrShare = Annotated[str | float, pydantic.BeforeValidator(lambda given: _number_or(given))]
BATCH_SIZES = ("per_rank_batch_size", "global_batch_size")


def _number_or(given: Any) -> Any:
    try:
        return float(given)
    except (TypeError, ValueError):
        return given


class Section(pydantic.BaseModel):
    """A TOML table; unknown keys are refused."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Data(Section):
    """[data]: what to learn from."""

    dataset: str = Field(
        "digits",
        description="digits, pydocs (embedded), a .csv file, or the name of a TFDS dataset",
    )
    data_dir: Path | None = Field(
        None,
        description="where TFDS datasets are or will be prepared; CSV files are relative to it",
    )
    train: str = Field("train", description="TFDS split to train on, e.g. 'train[:90%%]'")
    validation: SplitOrShare = Field(
        0.1,
        description="TFDS split or CSV file to validate on after each epoch, or the share held "
        "out from training, stratified (0: none)",
    )
    test: SplitOrShare | None = Field(
        None,
        description="TFDS split or CSV file to evaluate at the end, or the share held out "
        "(default: the TFDS split 'test'; 0.1 of a CSV file)",
    )
    input_key: str | None = Field(
        None, description="feature or column that holds the image or text (default: found)"
    )
    label_key: str | None = Field(
        None, description="feature or column that holds the label (default: found, or 'label')"
    )
    image_size: Positive | None = Field(
        None, description="resize images to so many pixels squared (needed if sizes are mixed)"
    )
    vocabulary_size: Annotated[int, Field(ge=3)] = Field(
        20_000, description="most tokens in the vocabulary, padding and unknown included"
    )
    ngrams: Annotated[int, Field(ge=1, le=3)] = Field(
        1, description="tokens are runs of up to so many words"
    )
    max_tokens: Positive = Field(256, description="longer texts are cut")


class Model(Section):
    """[model]: the network."""

    model: Literal["cnn", "resnet20", "resnet18", "resnet50", "bag", "textcnn", "transformer"] = (
        Field("cnn", description="the first four read images, the others text")
    )
    width: Positive | None = Field(
        None, description="filters or embedding width (default: the model's own)"
    )
    dropout: Share | None = Field(None, description="dropout rate (default: the model's own)")


class Training(Section):
    """[training]: how long, in which batches, in which precision."""

    epochs: Positive = Field(10, description="passes over the training data")
    per_rank_batch_size: Positive | None = Field(
        None, description="examples per rank and pass (default 32 if neither size is given)"
    )
    global_batch_size: Positive | None = Field(
        None, description="examples per optimizer step over all ranks and passes"
    )
    backward_passes_per_step: Positive = Field(
        1, description="accumulate gradients over so many passes before each exchange"
    )
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = Field(
        "float32", description="Keras dtype policy"
    )
    label_smoothing: Share = Field(0.0, description="share of each label spread over all classes")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        0, description="of the initial weights, the order of the data, dropout and hold-out"
    )

    @pydantic.model_validator(mode="after")
    def _one_batch_size(self) -> "Training":
        if self.per_rank_batch_size and self.global_batch_size:
            raise ValueError("give per_rank_batch_size or global_batch_size, not both")
        return self

    def examples_per_step(self, world_size: int) -> int:
        """Examples of all ranks and passes in one optimizer step."""
        per_rank = self.per_rank_batch_size or 32
        return self.global_batch_size or per_rank * world_size * self.backward_passes_per_step


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
        64, description="the global batch for which learning_rate is right"
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
        0.1, description="schedule 'step': by how much"
    )
    momentum: Share = Field(0.9, description="sgd")
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        0.0, description="decoupled decay of weight matrices (not of biases or BatchNorm)"
    )
    clip_norm: Annotated[float, Field(gt=0)] | None = Field(
        None, description="clip the global gradient to this norm"
    )

    @pydantic.model_validator(mode="after")
    def _steps_match_schedule(self) -> "Optimizer":
        if bool(self.step_epochs) != (self.schedule == "step"):
            raise ValueError("step_epochs goes with schedule = 'step', and is needed there")
        return self


class Distribution(Section):
    """[distribution]: how ranks exchange gradients and prove that they agree."""

    compression: Literal["none", "fp16"] = Field("none", description="gradients on the wire")
    aggregation: Literal["weighted", "average"] = Field(
        "weighted", description="ranks count by their examples, or all the same"
    )
    sparse_as_dense: bool = Field(
        True, description="exchange gradients of embeddings as dense tensors, or gather their rows"
    )
    bucket_mb: Annotated[float, Field(gt=0)] = Field(
        25.0, description="gradients travel in buckets of so many megabytes"
    )
    guard_every_steps: Positive = Field(
        100, description="compare all replicated variables between ranks so often"
    )


class Run(Section):
    """[run]: where it is kept and how often it reports."""

    run_dir: Path | None = Field(
        None, description="directory of the run (default runs/DATASET-MODEL-DATE-TIME)"
    )
    log_every_steps: Positive = Field(20, description="steps between points in TensorBoard")
    keep_checkpoints: Positive = Field(2, description="how many of the newest to keep")


class Config(Section):
    """Everything that defines a run."""

    data: Data = Data()
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


def add_flags(parser: argparse.ArgumentParser) -> None:
    """One flag per key, grouped by table, with the default in its help."""
    for name, section in sections().items():
        group = parser.add_argument_group(f"[{name}]", (section.__doc__ or "").partition(": ")[2])
        for key, field in section.model_fields.items():
            default = "" if field.default in (None, []) else f" [{field.default}]"
            group.add_argument(
                "--" + key.replace("_", "-"),
                dest=key,
                metavar=_metavar(field.annotation),
                default=argparse.SUPPRESS,
                help=f"{field.description}{default}",
            )


def _metavar(annotation: Any) -> str:
    """`INT`, `FLOAT`, `PATH`, ... of an annotation, or its choices."""
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return "|".join(map(str, arguments))
    if origin is Annotated:
        return _metavar(arguments[0])
    names = [_metavar(argument) for argument in arguments if argument is not type(None)]
    if names and origin is not list:
        return names[0] if len(set(names)) == 1 else "VALUE"
    return "N,N,..." if names else getattr(annotation, "__name__", "value").upper()


def load(recipe: Path | None, overrides: dict[str, Any]) -> Config:
    """Defaults, overlaid by a TOML recipe, overlaid by `overrides` (key -> text or value).

    Raises UserError that names the file or flag, the key and the valid values.
    """
    tables = _read_recipe(recipe) if recipe else {}
    for key, value in overrides.items():
        section = section_of(key)
        if key == "step_epochs" and isinstance(value, str):
            value = [part for part in value.split(",") if part]
        tables.setdefault(section, {})[key] = value
    for given, other in (BATCH_SIZES, BATCH_SIZES[::-1]):
        if given in overrides and other not in overrides:  # the flag replaces the recipe's choice
            tables["training"].pop(other, None)
    try:
        return Config.model_validate(tables)
    except pydantic.ValidationError as error:
        raise UserError(_explain(error, recipe, overrides)) from None


def _read_recipe(recipe: Path) -> dict[str, dict[str, Any]]:
    if not recipe.is_file():
        folder = recipe.parent if recipe.parent.is_dir() else Path("launch/recipes")
        found = [str(path) for path in folder.glob("*.toml")]
        raise UserError(f"no recipe '{recipe}': {suggest(str(recipe), found)}")
    try:
        tables = tomllib.loads(recipe.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{recipe} is not TOML: {error}") from None
    try:
        _check_keys(tables)
    except UserError as error:
        raise UserError(f"{recipe}: {error}") from None
    return tables


def _check_keys(tables: dict[str, Any]) -> None:
    """Raise UserError for a table or key that does not exist, or a key in the wrong table."""
    for name, table in tables.items():
        if name not in sections():
            hint = f"it belongs to [{section_of(name)}]" if not isinstance(table, dict) else ""
            raise UserError(f"unknown table '{name}': {hint or suggest(name, sections())}")
        if not isinstance(table, dict):
            raise UserError(f"[{name}] must be a table")
        for key in table:
            if key not in sections()[name].model_fields:
                where = section_of(key)  # raises with the nearest key if there is no such key
                raise UserError(f"'{key}' belongs to [{where}], not to [{name}]")


def _explain(error: pydantic.ValidationError, recipe: Path | None, overrides: dict) -> str:
    """The first problem of a validation, in one line."""
    first = error.errors()[0]
    key = str(first["loc"][1]) if len(first["loc"]) > 1 else ""
    where = f"--{key.replace('_', '-')}" if key in overrides else f"{recipe or 'config'}: {key}"
    given = f", got {first['input']!r}" if key else ""
    if first["type"] == "literal_error":
        valid = first["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return f"{where}: unknown value '{first['input']}': {suggest(str(first['input']), valid)}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where.rstrip(': ')}: {message}{given}"


def to_toml(config: Config) -> str:
    """The config as a recipe that gives it again."""
    lines = []
    for name in sections():
        lines.append(f"[{name}]")
        for key, value in getattr(config, name).model_dump(mode="json").items():
            if value is not None:
                lines.append(f"{key} = {_toml(value)}")
        lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)
