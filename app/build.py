"""Builds what is trained from a config and a data plan: classifier, schedule and optimizer."""

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

import models
from app.classifier import Classifier
from app.config import Config
from app.data.augment.augment import Augment
from app.data.batches import Feed, Split
from app.data.heads import strata
from app.data.order import owners_of
from app.data.plan import DataPlan
from app.data.text.tokenizer import tokenizer_from
from app.distributed.batch_norm import synchronised
from app.distributed.optimizer import DistributedOptimizer
from app.distributed.options import Sync, Wire
from app.distributed.strategies import WITH_ROUNDS
from app.distributed.world import World
from app.errors import UserError
from app.learning.early_stopping import EarlyStopping
from app.learning.lars import EXCLUDED, Lars
from app.learning.task import tasks_of
from app.learning.weight_average import WeightAverage
from app.pretrained.fine_tuning import freeze, with_rates
from app.schedule import Schedule, scaled_peak

LOG = logging.getLogger(__name__)


def build_classifier(
    config: Config, plan: DataPlan, train_labels: Any = None, world: World | None = None
) -> Classifier:
    """The network for a dataset, with initial weights from the seed.

    `plan`: what was decided about the dataset; `train_labels`: int (n,) or (n, heads), for class
    weights; `world`: the ranks that train it, for a BatchNorm over all of them, which predicts as
    any other. Raises UserError if the network refuses its options or the size of the images.
    """
    options: dict[str, Any] = {
        "width": config.model.width,
        "dropout": config.model.dropout,
        "pretrained": plan.pretrained,
    }
    name, classes = config.model.model, _classes_of(plan)
    keras.utils.set_random_seed(config.training.seed)
    keras.config.set_dtype_policy(config.training.precision)
    try:
        if plan.tokenizer is None:
            assert plan.image_shape
            options["stochastic_depth"] = config.model.stochastic_depth
            network = models.build_image_model(name, plan.image_shape, classes, **options)
        else:
            tokenizer = tokenizer_from(plan.tokenizer)
            size, cut = tokenizer.vocabulary_size, tokenizer.max_tokens
            network = models.build_text_model(name, size, classes, max_tokens=cut, **options)
    except ValueError as error:
        raise UserError(f"model '{name}': {error}") from None
    if config.distribution.sync_batch_norm and world is not None:
        network = _synchronised(network, world)
    # What will learn later is averaged from the beginning.
    freeze(config, network, unfrozen=bool(config.fine_tuning.unfreeze_epoch))
    average = WeightAverage(network, horizon) if (horizon := config.training.ema_examples) else None
    freeze(config, network, unfrozen=False)
    classifier = Classifier(network, tasks=tasks_of(config, plan.heads, train_labels))
    classifier.weight_average = average
    if patience := config.training.early_stopping_epochs:
        classifier.early_stopping = EarlyStopping(config.watched, patience)
    return classifier


def _synchronised(network: keras.Model, world: World) -> keras.Model:
    try:
        return synchronised(network, world)
    except ValueError as error:
        raise UserError(f"sync_batch_norm: {error}; leave the key out") from None


def _classes_of(plan: DataPlan) -> int | dict[str, int]:
    if len(plan.heads) == 1:
        return len(plan.class_names)
    return {name: len(class_names) for name, class_names in plan.heads}


def build_schedule(config: Config, world_size: int) -> Schedule:
    """The learning rate over the epochs; its peak fits the global batch of `world_size` ranks."""
    wanted, batch = config.optimizer, config.training.examples_per_step(world_size)
    return Schedule(
        scaled_peak(wanted, batch),
        wanted.schedule,
        warmup_epochs=wanted.warmup_epochs,
        epochs=config.training.epochs,
        boundaries=wanted.step_epochs,
        factor=wanted.step_factor,
        restart=config.fine_tuning.unfreeze_epoch or 0,
    )


def build_optimizer(config: Config, schedule: Schedule, world: World) -> DistributedOptimizer:
    """The update rule with its schedule, inside a DistributedOptimizer."""
    wanted, wire = config.optimizer, config.distribution
    is_topk = wire.compression == "topk"
    # topk makes the momentum before it chooses elements, and clips on each rank; but of gradients,
    # not of how models have moved in a round.
    takes_over = is_topk and wire.sync not in WITH_ROUNDS
    momentum = wanted.momentum if wanted.optimizer == "sgd" else 0.0
    common = {
        "weight_decay": wanted.weight_decay or None,
        "global_clipnorm": None if takes_over else wanted.clip_norm,
        "name": wanted.optimizer,
    }
    if is_topk and wanted.optimizer != "sgd" and world.is_chief:
        LOG.warning(
            "compression 'topk' with optimizer '%s' costs accuracy (digits: 97.0%% instead of "
            "98.4%%): sgd, or another compression, does not",
            wanted.optimizer,
        )
    if wanted.optimizer == "sgd":
        own = 0.0 if takes_over else momentum
        nesterov = wanted.nesterov and not takes_over
        inner = with_rates(keras.optimizers.SGD, config)(
            schedule, momentum=own, nesterov=nesterov, **common
        )
    elif wanted.optimizer == "lars":
        inner = with_rates(Lars, config)(schedule, momentum=wanted.momentum, **common)
    elif wanted.optimizer in ("adam", "adamw"):  # the decay of Keras' Adam is decoupled
        inner = with_rates(keras.optimizers.Adam, config)(schedule, **common)
    else:
        inner = with_rates(keras.optimizers.Lamb, config)(schedule, **common)
    if wanted.weight_decay:
        inner.exclude_from_weight_decay(var_names=list(EXCLUDED))
    return DistributedOptimizer(
        inner,
        compression=wire.compression,
        wire=Wire(
            seed=config.training.seed,
            from_epoch=wire.compress_from_epoch,
            topk_ratio=wire.topk_ratio,
            powersgd_rank=wire.powersgd_rank,
            momentum=momentum if takes_over else 0.0,
            clip_norm=wanted.clip_norm if takes_over else None,
        ),
        strategy=wire.sync,
        sync=Sync(
            every_steps=0 if wire.local_epochs else wire.sync_every_steps or 1,
            from_epoch=wire.sync_from_epoch,
            outer_learning_rate=wire.outer_learning_rate,
            outer_momentum=wire.outer_momentum,
        ),
        op=wire.aggregation,
        backward_passes_per_step=config.training.backward_passes_per_step,
        sparse_as_dense=wire.sparse_as_dense,
        bucket_mb=wire.bucket_mb,
        world=world,
        name="distributed",
    )


def build_feed(config: Config, classes: Sequence[int], train: Split, counts: bool = False) -> Feed:
    """What makes the training batches, augmented if the config asks for it.

    `classes`: of each head; `counts`: whether batches say how many labels their step has. Raises
    UserError if blends of several labels cannot be counted.
    """
    seed = config.training.seed
    if not config.augmentation.is_on:
        return Feed(train, counts=counts)
    has_several = len(classes) > 1
    augment = Augment(config.augmentation, classes if has_several else classes[0], seed)
    if has_several and augment.soft and config.training.backward_passes_per_step > 1:
        raise UserError(
            "mixup and cutmix with several labels do not go with backward_passes_per_step > 1: "
            "what is left of labels that are missing is counted in each pass alone"
        )
    return Feed(train, augment, counts=counts and not (has_several and augment.soft))


def owners_of_run(config: Config, world: World, train: Split) -> np.ndarray | None:
    """The rank that trains on each example, int (examples,), where shards are to differ; a
    collective."""
    wanted = config.distribution
    if wanted.shard_by == "iid":
        return None
    seed, alpha = config.training.seed, wanted.dirichlet_alpha
    owners = owners_of(strata(train.labels), wanted.shard_by, world.size, seed, alpha)
    # The Dirichlet shares are drawn as floats, which another machine could round differently.
    world.verify_same({"shards": hashlib.blake2b(owners.data, digest_size=8).hexdigest()})
    return owners


def parameters(classifier: Classifier) -> int:
    """The number of trainable parameters in the network."""
    return int(sum(np.prod(v.shape) for v in classifier.trainable_variables))
