"""Finds the mistakes in a config that can be found before TensorFlow is loaded.

Nobody should wait for imports, or for ranks to join, to learn of an obvious mistake.
"""

import os
from pathlib import Path

import numpy as np

from app.checkpoints.init_source import find_source
from app.config import Config, Data, Distribution
from app.data.bad import BadExamples
from app.data.catalogue import is_local, load_dataset
from app.data.examples import Dataset
from app.data.heads import strata
from app.data.sources import synthetic
from app.distributed.reducers import MOST_RANKS_OF_INT8, WITH_RESIDUALS
from app.distributed.strategies import WITH_ROUNDS
from app.errors import UserError, suggest
from app.pretrained.check import check_fine_tuning
from app.pretrained.find import find
from app.recipe import overlay
from app.rundir import contents
from models.table import MODELS, names_of

# A dataset with more files or bytes is not read twice; its mistakes show up when ranks read it.
MOST_FILES, MOST_BYTES = 5_000, 20_000_000
KINDS = {"digits": "image", "pydocs": "text", synthetic.IMAGE: "image", synthetic.TEXT: "text"}


def check(config: Config, resume: bool, world_size: int) -> None:
    """Raise UserError for what is wrong, without TensorFlow and in about a second.

    Call it on one rank: it reads the run directory, and the data if it is a few local files.
    """
    directory, goes_on = config.run.run_dir, False
    if directory is not None:
        saved = contents.find_run(directory, resume)
        if saved is not None:
            config, _ = overlay(saved, config)
            goes_on = contents.has_checkpoint(directory)
            if goes_on:
                contents.check_same_run(directory, saved, config)
    if config.model.init_from and not goes_on:
        find_source(config.model.init_from, MODELS[config.model.model].kind)
    check_fine_tuning(config)
    check_parts(config, world_size)
    check_compression(config, world_size)
    check_sync(config)
    check_early_stopping(config)
    kind = KINDS.get(config.data.dataset.partition(":")[0])
    if kind is not None:
        check_model(config, config.data.dataset, kind)
    elif is_local(config.data) and _is_small(config.data):
        bad = BadExamples(config.data.on_bad)
        with bad.shown_before_errors():
            dataset = load_dataset(config.data, config.training.seed, bad)
            check_model(config, dataset.name, dataset.kind)
            check_sizes(config, dataset, world_size)
    if not goes_on:
        find(config)


def _is_small(data: Data) -> bool:
    """Whether the data is small enough to be read twice."""
    place = (data.data_dir or Path()) / data.dataset
    if place.is_file():
        return place.stat().st_size <= MOST_BYTES
    files = 0
    for _, _, names in os.walk(place):
        files += len(names)
        if files > MOST_FILES:
            return False
    return True


def check_parts(config: Config, world_size: int) -> None:
    """Raise UserError if a global batch cannot be dealt to all ranks and passes."""
    training = config.training
    parts = world_size * training.backward_passes_per_step
    batch = training.global_batch_size
    if batch is not None and batch < parts:
        raise UserError(
            f"global_batch_size = {batch} cannot be dealt to {world_size} rank(s) x "
            f"{training.backward_passes_per_step} pass(es): give at least {parts}"
        )


def check_compression(config: Config, world_size: int) -> None:
    """Raise UserError if keys about compression do not go together, or with so many ranks."""
    wanted = config.distribution
    goes_with = {
        "compress_from_epoch": ("topk", "powersgd"),
        "topk_ratio": ("topk",),
        "powersgd_rank": ("powersgd",),
    }
    for key, names in goes_with.items():
        is_given = getattr(wanted, key) != Distribution.model_fields[key].default
        if is_given and wanted.compression not in names:
            raise UserError(
                f"{key} is for compression = {' or '.join(map(repr, names))}, but compression = "
                f"'{wanted.compression}'"
            )
    if wanted.compression == "topk" and config.optimizer.nesterov:
        raise UserError(
            "compression = 'topk' makes the momentum itself, and not Nesterov's: leave nesterov out"
        )
    # Between hosts there are fewer of them, which is known when they have joined.
    counts_hosts = wanted.sync == "hierarchical"
    if wanted.compression == "int8" and world_size > MOST_RANKS_OF_INT8 and not counts_hosts:
        raise UserError(
            f"compression = 'int8' with {world_size} ranks: a sum of bytes has room for at most "
            f"{MOST_RANKS_OF_INT8}. Use sync = 'hierarchical', which counts hosts, or another "
            "compression"
        )
    sends_gradients = wanted.sync not in WITH_ROUNDS
    if wanted.compression == "topk" and config.optimizer.optimizer == "lars" and sends_gradients:
        raise UserError(
            "compression = 'topk' does not go with optimizer = 'lars': a rate that follows from "
            "the norm of a layer's gradient cannot be had from a hundredth of it. Use another "
            "compression, or optimizer = 'sgd'"
        )
    if wanted.compression in WITH_RESIDUALS and counts_hosts:
        raise UserError(
            f"compression = '{wanted.compression}' does not go with sync = 'hierarchical': it "
            "keeps what it has not sent, and each rank of a host would keep that of other pieces. "
            "Use compression none, fp16 or int8, or sync = 'every_step'"
        )


def check_sync(config: Config) -> None:
    """Raise UserError if keys about rounds do not go together."""
    wanted, commit = config.distribution, config.run.commit_every_steps
    sync, steps = wanted.sync, wanted.sync_every_steps
    if steps and sync not in WITH_ROUNDS:
        raise UserError(
            f"sync_every_steps = {steps}: sync = '{sync}' has no rounds; use sync = 'local', or "
            "leave it out"
        )
    if sync != "local":
        for key in ("sync_from_epoch", "local_epochs", "outer_learning_rate", "outer_momentum"):
            if getattr(wanted, key) != Distribution.model_fields[key].default:
                raise UserError(f"{key} is for sync = 'local', but sync = '{sync}'")
    if sync == "local" and bool(steps) == bool(wanted.local_epochs):
        raise UserError(
            "sync = 'local' needs the length of a round: give either sync_every_steps (such as 8), "
            "or local_epochs with shard_by"
        )
    if sync == "delayed" and not steps:
        raise UserError(
            "sync = 'delayed' needs the length of a round: give sync_every_steps, such as 8"
        )
    if wanted.sync_batch_norm:
        _check_sync_batch_norm(wanted)
    if steps and commit and commit % steps:
        lower, upper = commit // steps * steps, -(-commit // steps) * steps
        raise UserError(
            f"commit_every_steps = {commit} is no multiple of sync_every_steps = {steps}, and "
            f"commit points lie at ends of rounds: use {f'{lower} or ' if lower else ''}{upper}"
        )
    if wanted.local_epochs:
        _check_local_epochs(config)


def _check_sync_batch_norm(wanted: Distribution) -> None:
    """Ranks that normalise together must have the same model at every step."""
    if wanted.sync in WITH_ROUNDS and (wanted.sync != "hierarchical" or wanted.sync_every_steps):
        rounds = " with sync_every_steps" if wanted.sync == "hierarchical" else ""
        raise UserError(
            f"sync_batch_norm does not go with sync = '{wanted.sync}'{rounds}: ranks take steps of "
            "their own in a round. Leave it out, or use sync = 'every_step'"
        )
    if wanted.aggregation == "average":
        raise UserError(
            "sync_batch_norm does not go with aggregation = 'average': statistics weigh ranks by "
            "their examples, and so must gradients. Leave one of them out"
        )


def check_early_stopping(config: Config) -> None:
    """Raise UserError if there is nothing that could stop a run early."""
    if config.training.early_stopping_epochs and config.data.validation == 0:
        raise UserError(
            "early_stopping_epochs goes by validation, and validation = 0 leaves nothing to "
            "validate on: give a share or a split, or leave early_stopping_epochs out"
        )


def _check_local_epochs(config: Config) -> None:
    """Each rank takes batches of its own from its own shard, and commits with the others when all
    have done so."""
    training = config.training
    refused = {
        "shard_by = 'iid': each rank needs a shard of its own; use 'label' or 'dirichlet'": (
            config.distribution.shard_by == "iid"
        ),
        "commit_every_steps: commit points lie at ends of epochs only; leave it out": (
            config.run.commit_every_steps is not None
        ),
        "sync_from_epoch: every epoch is one round; leave it out": (
            config.distribution.sync_from_epoch > 0
        ),
        "global_batch_size: ranks take batches of their own; give per_rank_batch_size": (
            training.global_batch_size is not None
        ),
        "backward_passes_per_step: every batch is a step of its rank; leave it out": (
            training.backward_passes_per_step > 1
        ),
        "imbalance = 'balanced_sampling': a shard is passed over as it is": (
            training.imbalance == "balanced_sampling"
        ),
    }
    for reason, is_refused in refused.items():
        if is_refused:
            raise UserError(f"local_epochs does not go with {reason}")


def check_model(config: Config, name: str, kind: str) -> None:
    """Raise UserError if the model does not read what the dataset `name` holds, or needs larger
    images."""
    model, pixels = config.model.model, config.data.image_size
    if MODELS[model].kind != kind:
        raise UserError(
            f"model '{model}' does not read {kind}s, and {name} holds {kind}s: "
            f"{suggest(model, names_of(kind))}"
        )
    try:
        if pixels and kind == "image":
            MODELS[model].check_image(pixels, pixels)
        if config.model.stochastic_depth is not None:
            MODELS[model].check_depth()
    except ValueError as error:
        raise UserError(f"model '{model}': {error}") from None


def check_sizes(config: Config, dataset: Dataset, world_size: int) -> None:
    """Raise UserError if there are too few examples or classes for the ranks and batches."""
    training, examples = config.training, len(dataset.train)
    passes = training.backward_passes_per_step
    if world_size * passes > examples:
        what = f"{world_size} ranks" if passes == 1 else f"{world_size} rank(s) x {passes} passes"
        raise UserError(f"{what}, but {dataset.name} has {examples} training examples")
    batch = with_fitting_batch(config, examples, world_size).training.examples_per_step(world_size)
    if batch > examples:
        what = (
            f"global_batch_size = {batch}"
            if training.global_batch_size
            else f"per_rank_batch_size = {training.per_rank_batch_size} on {world_size} rank(s) "
            f"and {passes} pass(es) makes batches of {batch}, which"
        )
        raise UserError(f"{what} is more than the {examples} training examples: make it smaller")
    check_parts(config, world_size)
    classes = len(np.unique(strata(dataset.train.labels)))
    if config.distribution.shard_by == "label" and classes < world_size:
        raise UserError(
            f"shard_by = 'label': {classes} classes cannot be dealt to {world_size} ranks: start "
            "fewer ranks, or use shard_by = 'dirichlet'"
        )


def with_fitting_batch(config: Config, examples: int, world_size: int) -> Config:
    """The same config, but with the default batch size halved until a global batch holds no more
    than all `examples`. A batch size that was given stays."""
    training = config.training
    if training.per_rank_batch_size or training.global_batch_size:
        return config
    per_rank = training.examples_per_rank
    while per_rank > 1 and per_rank * world_size * training.backward_passes_per_step > examples:
        per_rank //= 2
    if per_rank == training.examples_per_rank:
        return config
    fitted = training.model_copy(update={"per_rank_batch_size": per_rank})
    return config.model_copy(update={"training": fitted})
