"""The lockstep guard: notices when replicas drift apart, names where, and repairs it if it may."""

import logging
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import keras
import numpy as np

from app.distributed.fingerprints import fingerprints
from app.distributed.replicas import settle
from app.distributed.world import World
from app.state import SAVED, Kind, StateVariable, reseed, state_variables

LOG = logging.getLogger(__name__)


class ReplicasDiverged(RuntimeError):  # noqa: N818 (an event, and the field's word)
    """Variables that must be equal on all ranks are not."""


def agree(
    world: World,
    model: keras.Model,
    optimizer: Any,
    examples: float,
    seed: int,
    step: int,
    on_drift: str = "stop",
) -> list[str]:
    """Bring all ranks to one state and prove it, at the beginning of a commit point; a collective.

    Random generators are derived again from (seed, rank, step), so a run that resumes here draws
    what this one draws. `examples`: how many this rank has trained on since the last call.
    Everything that a checkpoint holds is compared. `on_drift`, result and errors: as `compare`.
    """
    settle(world, model, optimizer, examples)
    repaired = compare(world, model, optimizer, step, on_drift, SAVED)
    reseed(model, seed, world.rank, step)
    return repaired


def compare(
    world: World,
    model: keras.Model,
    optimizer: Any,
    step: int,
    on_drift: str = "stop",
    kinds: Sequence[Kind] = (Kind.REPLICATED,),
) -> list[str]:
    """Compare the bits of all variables of these kinds over all ranks; a collective.

    If some differ and `on_drift` is "repair", and more than half of the ranks agree on all of them,
    the others get that majority's values; the result says so, a sentence for each repair, which the
    chief also logs as a warning. It is empty if all are equal. Gradients that a rank has summed up
    within a step stay its own.

    Raises ReplicasDiverged on every rank otherwise, naming the first variable and the ranks.
    """
    if world.size == 1:
        return []
    found = state_variables(model, optimizer)
    entries = [entry for kind in kinds for entry in found if entry.kind is kind]
    table = _table(world, entries, step)
    differing = _differing(table)
    if not differing.size:
        return []
    majority = _majority(table) if on_drift == "repair" else []
    if not majority:
        raise ReplicasDiverged(_describe(table, entries, step))
    world.broadcast_variables([entries[i].variable for i in differing], root=majority[0])
    table_now = _table(world, entries, step)
    if _differing(table_now).size:
        raise ReplicasDiverged(_describe(table_now, entries, step))
    others = sorted(set(range(world.size)) - set(majority))
    repaired = (
        f"step {step}: rank(s) {others} had left lockstep in {differing.size} of {len(entries)} "
        f"variables, the first of them '{entries[differing[0]].path}', and got the values of the "
        f"majority, rank(s) {majority}"
    )
    if world.is_chief:
        LOG.warning("%s", repaired)
    return [repaired]


def _table(world: World, entries: Sequence[StateVariable], step: int) -> np.ndarray:
    """The fingerprints of all ranks, int64 (ranks, variables); the same on every rank."""
    # Kind by kind, since a compiled function is made for each list of shapes.
    parts = [[e.variable for e in part] for _, part in groupby(entries, lambda e: e.kind)]
    own = np.concatenate([np.zeros(0, np.int64), *map(fingerprints, parts)])
    # Paths may be numbered differently in other processes, so only their number is compared.
    rows = world.gather(own)
    if len({len(row) for row in rows}) > 1:
        raise ReplicasDiverged(
            f"step {step}: ranks hold different numbers of variables: {[len(row) for row in rows]}"
        )
    return np.stack(rows)


def _differing(table: np.ndarray) -> np.ndarray:
    """The columns in which not all ranks are equal."""
    return np.flatnonzero((table != table[0]).any(axis=0))


def _groups(table: np.ndarray) -> list[list[int]]:
    """The ranks whose rows are equal, in the order of each group's lowest rank."""
    groups: dict[bytes, list[int]] = {}
    for rank, row in enumerate(table):
        groups.setdefault(row.tobytes(), []).append(rank)
    return list(groups.values())


def _majority(table: np.ndarray) -> list[int]:
    """The ranks that are equal in everything if they are more than half of all; else none."""
    largest = max(_groups(table), key=len)
    return largest if 2 * len(largest) > len(table) else []


def _describe(table: np.ndarray, entries: Sequence[StateVariable], step: int) -> str:
    differing = _differing(table)
    first = differing[0]
    return (
        f"step {step}: the ranks are no longer in lockstep. First difference: variable "
        f"'{entries[first].path}' ({differing.size} of {len(entries)} variables differ); ranks "
        f"that agree with each other: {_groups(table[:, first : first + 1])}. Every rank must "
        "apply the same reduced gradients from the same start: is the optimizer an "
        "app.distributed.DistributedOptimizer, and was the initial state broadcast?"
    )
