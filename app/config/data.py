"""[data] and [augmentation]: what a run learns from."""

from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from app.config.section import Section
from app.config.values import Color, Encoding, Positive, Separator, SplitOrShare


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
        description="feature or column that holds the label, or several such as intent,domain, one "
        "head for each; an empty cell is a missing label (default: found, or 'label')",
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

    flip: Literal["none", "horizontal", "both", "alternating"] = Field(
        "none",
        description="mirror half of the images left to right, or in both directions; alternating: "
        "half of them in the first epoch, the other half in the next, and so on",
    )
    crop_padding: Annotated[int, Field(ge=0)] = Field(
        0, description="pad by this many pixels and crop to the old size at random"
    )
    auto_augment: Literal["none", "trivialaugment", "randaugment"] = Field(
        "none",
        description="on each image one of 14 operations at a random strength (trivialaugment), or "
        "randaugment_operations of them at the same strength (randaugment)",
    )
    randaugment_operations: Positive = Field(
        2, description="auto_augment 'randaugment': how many operations, one after the other"
    )
    randaugment_strength: Annotated[int, Field(ge=0, le=30)] = Field(
        9, description="auto_augment 'randaugment': of all operations, 30 is the greatest"
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

    @pydantic.model_validator(mode="after")
    def _has_what_it_sets(self) -> "Augmentation":
        for key in ("randaugment_operations", "randaugment_strength"):
            is_default = getattr(self, key) == Augmentation.model_fields[key].default
            if not is_default and self.auto_augment != "randaugment":
                raise ValueError(f"{key} goes with auto_augment = 'randaugment'")
        return self

    @property
    def is_on(self) -> bool:
        """Whether images are changed at all."""
        return self != Augmentation()
