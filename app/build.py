"""From a config to the things it describes: data, a classifier, an optimizer."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

import models
from app.classifier import Classifier
from app.config import Config
from app.data.bad import Bad, BadExamples
from app.data.batches import Split
from app.data.catalogue import load_dataset, prepare_dataset
from app.data.examples import Dataset, Examples
from app.data.hold import (
    Checked,
    Held,
    check_splits,
    choose,
    hold_images,
    hold_texts,
    image_bytes,
    image_spec,
    survey,
    text_bytes,
    text_chunks,
)
from app.data.sources.records import keep_also
from app.data.text.encoder import Encoder, Lengths
from app.data.text.vocabulary import build_vocabulary
from app.distributed.optimizer import DistributedOptimizer
from app.distributed.world import World
from app.errors import UserError
from app.preflight import check_model, check_sizes
from app.rundir import DATASET_FORMAT
from app.schedule import Schedule, scaled_peak

MOST_LEFT_OUT = 12  # lines about what was left out, in the plan of a run


@dataclasses.dataclass(frozen=True)
class Data:
    """A dataset ready for the network, the same on every rank.

    `image_shape`: (height, width, channels), for images; `bad`: the examples that were left out;
    `notes`: what was decided about the data, for people; `checked`: which streamed images cannot
    be decoded.
    """

    dataset: Dataset
    splits: dict[str, Split]
    vocabulary: list[str] | None
    image_shape: tuple[int, int, int] | None
    held: Held
    bad: list[Bad]
    notes: dict[str, str]
    checked: Checked = dataclasses.field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """What a model trained on it needs to know at inference, as JSON values."""
        return {
            "format": DATASET_FORMAT,
            "name": self.dataset.name,
            "kind": self.dataset.kind,
            "fingerprint": self.dataset.fingerprint,
            "examples": {name: len(split) for name, split in self.splits.items()},
            "class_names": list(self.dataset.class_names),
            "image_shape": list(self.image_shape or ()),
            "vocabulary": self.vocabulary,
            "read_as": list(self.dataset.notes),
            "hold": "stream" if self.held.stream else "memory",
        }


def load_data(
    config: Config, world: World, hold: str | None = None, checked: Checked | None = None
) -> Data:
    """Prepare (one rank per host), load and encode the dataset; a collective.

    `hold`: how a run that is resumed held its examples; None for the config's choice. `checked`:
    what it found about its images.
    """
    bad = BadExamples(config.data.on_bad)
    dataset = open_dataset(config, bad, world)
    with world.together():
        check_model(config, dataset.name, dataset.kind)
    with bad.shown_before_errors():
        check_splits(dataset)
        data = hold_dataset(config, dataset, bad, world, hold, checked)
    with world.together(), bad.shown_before_errors():
        bad.check(sum(map(len, data.splits.values())) + len(bad.found))
        check_splits(data.dataset)
        check_sizes(config, data.dataset, world.size)
    if left_out := bad.left_out(MOST_LEFT_OUT):
        data.notes["left out"] = "\n    ".join(["", *left_out])
    return data


def open_dataset(config: Config, bad: BadExamples, world: World) -> Dataset:
    """Prepare the dataset (one rank per host) and find its examples; a collective."""
    if config.run.run_dir:
        keep_also(config.run.run_dir.parent)
    with world.together():
        if world.local_rank == 0:
            prepare_dataset(config.data)
    with world.together(), bad.shown_before_errors():
        dataset = load_dataset(config.data, config.training.seed, bad)
        fingerprint = dataset.fingerprint  # asks the sizes of files
    world.verify_same({"dataset": fingerprint})
    return dataset


def hold_dataset(
    config: Config,
    dataset: Dataset,
    bad: BadExamples,
    world: World,
    hold: str | None = None,
    checked: Checked | None = None,
) -> Data:
    """Decode and encode the dataset, in memory or as a stream; a collective."""
    hold = hold or config.data.hold
    if dataset.kind == "text":
        return _load_texts(config, dataset, hold, bad, world)
    return _load_images(config, dataset, hold, bad, world, dict(checked or {}))


def _load_images(
    config: Config, dataset: Dataset, hold: str, bad: BadExamples, world: World, checked: Checked
) -> Data:
    dataset = survey(dataset, bad, world)
    check_splits(dataset)
    with world.together():
        spec, size = image_spec(config.data, dataset)
    needed = image_bytes(dataset, size, spec.channels)
    held = choose(hold, needed, not isinstance(dataset.train, Examples), dataset.name, world)
    splits, dataset = hold_images(dataset, spec, size, held, bad, world, checked)
    notes = {"images": f"{size[1]}x{size[0]}x{spec.channels}, {held.why}"}
    shape = (*size, spec.channels)
    return Data(dataset, splits, None, shape, held, bad.found, notes, checked)


def _load_texts(
    config: Config, dataset: Dataset, hold: str, bad: BadExamples, world: World
) -> Data:
    wanted = config.data
    if config.augmentation.is_on or wanted.image_size is not None:
        what = "image_size" if wanted.image_size is not None else "[augmentation]"
        raise UserError(f"{what} is for images, but {dataset.name} holds texts", shared=True)
    size, ngrams, tokens = wanted.vocabulary_size, wanted.ngrams, wanted.tokens
    can_stream = not isinstance(dataset.train, Examples)
    needed = text_bytes(dataset) * world.local_size
    held = choose(hold, needed, can_stream, dataset.name, world)
    vocabulary = world.from_chief(
        lambda: build_vocabulary(text_chunks(dataset.train), tokens, size, ngrams)
    )
    encoder = Encoder(vocabulary, tokens, ngrams, wanted.max_tokens)
    splits, lengths = hold_texts(dataset, encoder, held, world)
    notes = {"texts": f"{len(vocabulary):,} {tokens} in the vocabulary, {held.why}"}
    notes |= _text_notes(lengths, wanted.max_tokens, ngrams)
    return Data(dataset, splits, vocabulary, None, held, bad.found, notes)


def _text_notes(lengths: Mapping[str, Lengths], max_tokens: int, ngrams: int) -> dict[str, str]:
    """What of the texts the model does not read."""

    def count(what: Callable[[np.ndarray], np.ndarray]) -> tuple[int, str]:
        found = {name: int(what(split.tokens).sum()) for name, split in lengths.items()}
        train = f"{found['train']:,} of {len(lengths['train'].tokens):,} in train"
        return sum(found.values()), train

    total, train = count(lambda tokens: tokens > max_tokens)
    notes = {"cut": f"{total:,} texts longer than {max_tokens} tokens ({train})"}
    total, train = count(lambda tokens: tokens == 0)
    if total:
        notes["no token"] = f"{total:,} texts, which the model cannot tell apart ({train})"
    if warning := lengths["train"].warning(ngrams):
        notes["warning"] = warning
    return notes


def build_classifier(
    config: Config, about: Mapping[str, Any], train_labels: Any = None
) -> Classifier:
    """The network for a dataset, with initial weights from the seed.

    `about`: what `Data.describe()` says of the dataset; `train_labels`: int (n,), for class
    weights. Raises UserError if the network refuses its options or the size of the images.
    """
    options: dict[str, Any] = {"width": config.model.width, "dropout": config.model.dropout}
    name, classes = config.model.model, len(about["class_names"])
    keras.utils.set_random_seed(config.training.seed)
    keras.config.set_dtype_policy(config.training.precision)
    try:
        if about["kind"] == "image":
            shape = tuple(about["image_shape"])
            network = models.build_image_model(name, shape, classes, **options)
        else:
            size, cut = len(about["vocabulary"]) + 2, config.data.max_tokens
            network = models.build_text_model(name, size, classes, max_tokens=cut, **options)
    except ValueError as error:
        raise UserError(f"model '{name}': {error}") from None
    weights = None
    if config.training.imbalance == "class_weights" and train_labels is not None:
        weights = class_weights(train_labels, classes)
    return Classifier(network, config.training.label_smoothing, weights)


def class_weights(labels: np.ndarray, classes: int) -> list[float]:
    """examples / (present classes * the class's examples), for each class; 0 for none.

    Every class counts the same in the loss, and the mean weight over the examples is 1.
    """
    counts = np.bincount(labels, minlength=classes)
    present = np.count_nonzero(counts)
    return [len(labels) / (present * count) if count else 0.0 for count in counts.tolist()]


def build_schedule(config: Config, world_size: int) -> Schedule:
    """The learning rate over the epochs, with the peak for the global batch of so many ranks."""
    wanted, batch = config.optimizer, config.training.examples_per_step(world_size)
    return Schedule(
        scaled_peak(wanted, batch),
        wanted.schedule,
        warmup_epochs=wanted.warmup_epochs,
        epochs=config.training.epochs,
        boundaries=wanted.step_epochs,
        factor=wanted.step_factor,
    )


def build_optimizer(config: Config, schedule: Schedule, world: World) -> DistributedOptimizer:
    """The update rule with its schedule, inside a DistributedOptimizer."""
    wanted = config.optimizer
    common = {
        "weight_decay": wanted.weight_decay or None,
        "global_clipnorm": wanted.clip_norm,
        "name": wanted.optimizer,
    }
    if wanted.optimizer == "sgd":
        inner = keras.optimizers.SGD(schedule, momentum=wanted.momentum, **common)
    elif wanted.optimizer == "adam":
        inner = keras.optimizers.Adam(schedule, **common)
    else:
        inner = keras.optimizers.Lamb(schedule, **common)
    if wanted.weight_decay:
        inner.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return DistributedOptimizer(
        inner,
        compression=config.distribution.compression,
        op=config.distribution.aggregation,
        backward_passes_per_step=config.training.backward_passes_per_step,
        sparse_as_dense=config.distribution.sparse_as_dense,
        bucket_mb=config.distribution.bucket_mb,
        world=world,
        name="distributed",
    )


def parameters(classifier: Classifier) -> int:
    """Trainable numbers in the network."""
    return int(sum(np.prod(v.shape) for v in classifier.trainable_variables))
