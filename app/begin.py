"""How a run begins: from its seed, from the weights of another run, or where it was."""

from pathlib import Path

import numpy as np

from app.build import build_classifier, build_optimizer
from app.checkpoints.init_from import load_weights
from app.checkpoints.keeper import Keeper
from app.checkpoints.mirror import mirror_of
from app.config import Config
from app.distributed.optimizer import DistributedOptimizer
from app.distributed.replicas import broadcast_state
from app.distributed.world import World
from app.elastic.door import DOOR
from app.load import LoadedData
from app.pretrained import find
from app.pretrained.fine_tuning import freeze
from app.recipe import overlay
from app.rundir import contents
from app.rundir.files import list_checkpoints
from app.rundir.patience import PATIENCE_S
from app.schedule import Schedule
from app.state import TrainState

ADAPTED_IMAGES = 5000  # that layers with statistics of images look at


def resolve(config: Config, resume: bool, world: World) -> tuple[Config, bool, dict[str, str]]:
    """(the config of the run with what was given now, whether a checkpoint is there to go on from,
    what has changed, for people); a collective.

    Raises UserError if the directory holds another run.
    """
    directory = config.run.run_dir or Path()
    saved, goes_on = world.from_chief(lambda: _saved_run(config, resume))
    if saved is None:
        return config, False, {}
    config, changes = overlay(saved.in_directory(directory), config)
    if goes_on:
        with world.together():
            contents.check_same_run(directory, saved, config)
    told = ", ".join(f"{key} {old!r} -> {new!r}" for key, (old, new) in changes.items())
    return config, goes_on, {"changed": told} if told else {}


def _saved_run(config: Config, resume: bool) -> tuple[Config | None, bool]:
    """The config of the run in the directory, if there is one to resume; and whether it has a
    checkpoint to continue from, instead of starting over."""
    directory = config.run.run_dir or Path()
    saved = contents.find_run(directory, resume)
    is_kept = contents.has_checkpoint(directory)
    if DOOR.run is not None:
        is_kept = is_kept or bool(list_checkpoints(mirror_of(directory)))
    return saved, saved is not None and is_kept


def initial_state(config: Config, data: LoadedData, schedule: Schedule, world: World) -> TrainState:
    """A built model and optimizer, from the seed; nothing is written yet."""
    labels = data.splits["train"].labels
    classifier = world.place(lambda: build_classifier(config, data.plan, labels, world))

    def optimizer() -> DistributedOptimizer:
        made = build_optimizer(config, schedule, world)
        classifier.compile(made)
        made.build(classifier.trainable_variables)
        return made

    def renew(state: TrainState) -> None:
        freeze(config, classifier.network, unfrozen=bool(state.unfrozen_at))
        state.optimizer = world.place(optimizer)

    state = TrainState(classifier, None, config.training.seed, renew=renew)
    renew(state)
    return state


def open_run(
    config: Config,
    data: LoadedData,
    state: TrainState,
    goes_on: bool,
    keeper: Keeper,
    world: World,
) -> dict[str, str]:
    """Bring every rank to the newest checkpoint or the start, then write what the run is.

    The chief reads and writes files; if it fails, every rank does, and nothing was overwritten.
    Returns what the run begins with, for people, if that is another run.
    """
    directory = config.run.run_dir or Path()
    begins: dict[str, str] = {}
    if goes_on:
        world.from_chief(lambda: keeper.restore_latest(state, world.size))
    else:
        world.from_chief(lambda: _adapt(state, data))
        if source := config.model.init_from:
            report = world.from_chief(lambda: load_weights(source, state.model, data.plan))
            begins["begins with"] = str(report)
        elif config.model.pretrained:
            begins["begins with"] = world.from_chief(lambda: _load_pretrained(config, state, data))
    patience_s = PATIENCE_S if DOOR.run is not None else 0.0  # nobody watches a restart
    world.from_chief(lambda: contents.keep_run(directory, config, data.plan, data.bad, patience_s))
    state.move_to(world.broadcast(state.position))
    broadcast_state(world, state.model, state.optimizer, state.seed, state.step)
    return begins


def _adapt(state: TrainState, data: LoadedData) -> None:
    """Set the layers that begin with statistics of the training images, on the chief."""
    split = data.splits["train"]
    layers = [one for one in state.model.network.layers if hasattr(one, "adapt_to_images")]
    if layers and data.plan.image_shape:
        rows = np.unique(np.linspace(0, len(split) - 1, ADAPTED_IMAGES).astype(np.int64))
        images = split.inputs(rows, 0).numpy() / np.float32(255)
        for layer in layers:
            layer.adapt_to_images(images)


def _load_pretrained(config: Config, state: TrainState, data: LoadedData) -> str:
    """Put pretrained weights into the model, on the chief; returns what they are, for people."""
    found = find.find(config)
    assert found is not None
    assert data.plan.pretrained is not None
    find.load(config, found, state.model.network)
    return f"{config.model.pretrained} (SHA-256 {data.plan.pretrained['sha256'][:12]}...)"
