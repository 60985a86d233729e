"""From a config to the things it describes: data in memory, a classifier, an optimizer."""

import dataclasses
import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np

import models
from app.classifier import Classifier
from app.config import Config
from app.data.batches import Loaded, load_images, load_texts
from app.data.catalogue import load_dataset, prepare_dataset
from app.data.examples import Dataset
from app.data.text import build_vocabulary
from app.distributed.optimizer import DistributedOptimizer
from app.distributed.world import World
from app.errors import UserError, suggest
from app.schedule import Schedule, scaled_peak


@dataclasses.dataclass(frozen=True)
class Data:
    """A dataset ready for the network, the same on every rank."""

    dataset: Dataset
    splits: dict[str, Loaded]
    vocabulary: list[str] | None

    def describe(self) -> dict[str, Any]:
        """What a model trained on it needs to know at inference, as JSON values."""
        return {
            "name": self.dataset.name,
            "kind": self.dataset.kind,
            "fingerprint": self.dataset.fingerprint,
            "examples": {name: len(split) for name, split in self.splits.items()},
            "class_names": list(self.dataset.class_names),
            "image_shape": list(self.dataset.train.inputs.shape[1:]),
            "vocabulary": self.vocabulary,
        }


def load_data(config: Config, world: World) -> Data:
    """Prepare (one rank per host), load and encode the dataset; a collective."""
    with world.together():
        if world.local_rank == 0:
            prepare_dataset(config.data)
    with world.together():
        dataset = load_dataset(config.data, config.training.seed)
        _check_sizes(config, dataset, world.size)
        _check_model(config, dataset)
    world.verify_same({"dataset": dataset.fingerprint})
    if dataset.kind == "image":
        images = {name: load_images(split) for name, split in dataset.splits.items()}
        return Data(dataset, images, None)
    size, ngrams = config.data.vocabulary_size, config.data.ngrams
    vocabulary = world.from_chief(lambda: build_vocabulary(dataset.train.inputs, size, ngrams))
    texts = {
        name: load_texts(split, vocabulary, ngrams, config.data.max_tokens)
        for name, split in dataset.splits.items()
    }
    return Data(dataset, texts, vocabulary)


def _check_sizes(config: Config, dataset: Dataset, world_size: int) -> None:
    training, examples = config.training, len(dataset.train)
    parts = world_size * training.backward_passes_per_step
    batch = training.examples_per_step(world_size)
    if world_size > examples:
        raise UserError(f"{world_size} ranks, but {dataset.name} has {examples} training examples")
    if batch > examples:
        size = training.per_rank_batch_size or 32
        what = (
            f"global_batch_size = {batch}"
            if training.global_batch_size
            else f"per_rank_batch_size = {size} on {world_size} rank(s) and "
            f"{training.backward_passes_per_step} pass(es) makes batches of {batch}, which"
        )
        raise UserError(f"{what} is more than the {examples} training examples: make it smaller")
    if batch < parts:
        raise UserError(
            f"global_batch_size = {batch} cannot be dealt to {world_size} rank(s) x "
            f"{training.backward_passes_per_step} pass(es): give at least {parts}"
        )


def _check_model(config: Config, dataset: Dataset) -> None:
    name = config.model.model
    fitting = models.IMAGE_MODELS if dataset.kind == "image" else models.TEXT_MODELS
    if name not in fitting:
        raise UserError(
            f"model '{name}' does not read {dataset.kind}s, and {dataset.name} holds "
            f"{dataset.kind}s: {suggest(name, fitting)}"
        )


def build_classifier(config: Config, data: Data) -> Classifier:
    """The network for this dataset, with initial weights from the seed.

    Raises UserError if the network refuses its options or the size of the images.
    """
    options: dict[str, Any] = {"width": config.model.width, "dropout": config.model.dropout}
    classes = len(data.dataset.class_names)
    keras.utils.set_random_seed(config.training.seed)
    keras.config.set_dtype_policy(config.training.precision)
    try:
        if data.dataset.kind == "image":
            shape = data.dataset.train.inputs.shape[1:]
            network = models.build_image_model(config.model.model, shape, classes, **options)
        else:
            size, cut = len(data.vocabulary or []) + 2, config.data.max_tokens
            network = models.build_text_model(
                config.model.model, size, classes, max_tokens=cut, **options
            )
    except ValueError as error:
        raise UserError(f"model '{config.model.model}': {error}") from None
    return Classifier(network, config.training.label_smoothing)


def build_optimizer(config: Config, examples: int, world: World) -> DistributedOptimizer:
    """The update rule with its schedule, inside a DistributedOptimizer."""
    wanted, batch = config.optimizer, config.training.examples_per_step(world.size)
    steps_per_epoch = -(-examples // batch)
    schedule = Schedule(
        scaled_peak(
            wanted.learning_rate, wanted.learning_rate_scaling, batch, wanted.reference_batch_size
        ),
        wanted.schedule,
        warmup_steps=round(wanted.warmup_epochs * steps_per_epoch),
        total_steps=config.training.epochs * steps_per_epoch,
        boundaries=[round(epoch * steps_per_epoch) for epoch in wanted.step_epochs],
        factor=wanted.step_factor,
    )
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


def code_version() -> dict[str, str]:
    """What must be the same on all ranks: our sources and the packages that compute."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted([*root.glob("app/**/*.py"), *root.glob("models/**/*.py")]):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    versions = {name: _version(name) for name in ("tensorflow", "keras", "horovod", "numpy")}
    return {"code": digest.hexdigest()[:16], **versions}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def parameters(classifier: Classifier) -> int:
    """Trainable numbers in the network."""
    return int(sum(np.prod(v.shape) for v in classifier.trainable_variables))
