"""The lockstep guard: notices when replicas drift apart, and names where."""

from typing import Any

import keras
import numpy as np

from app.distributed.replicas import settle
from app.distributed.world import World
from app.state import Kind, fingerprints, reseed, state_variables


class ReplicasDiverged(RuntimeError):  # noqa: N818 (an event, and the field's word)
    """Variables that must be equal on all ranks are not."""


def agree(
    world: World, model: keras.Model, optimizer: Any, examples: float, seed: int, step: int
) -> None:
    """Bring all ranks to one state and prove it, at the beginning of a commit point; a collective.

    Random generators are derived again from (seed, rank, step), so a run that resumes here draws
    what this one draws. `examples`: how many this rank has trained on since the last call.

    Raises ReplicasDiverged on every rank.
    """
    settle(world, model, optimizer, examples)
    compare(world, model, optimizer, step)
    reseed(model, seed, world.rank, step)


def compare(world: World, model: keras.Model, optimizer: Any, step: int) -> None:
    """Compare the bits of every replicated variable over all ranks; a collective.

    Raises ReplicasDiverged on every rank, naming the first variable and the ranks.
    """
    if world.size == 1:
        return
    entries = [e for e in state_variables(model, optimizer) if e.kind is Kind.REPLICATED]
    # Paths may be numbered differently in other processes, so only their number is compared.
    rows = world.gather(fingerprints(entries))
    if len({len(row) for row in rows}) > 1:
        raise ReplicasDiverged(
            f"step {step}: ranks hold different numbers of variables: {[len(row) for row in rows]}"
        )
    table = np.stack(rows)  # (ranks, variables)
    differing = np.flatnonzero((table != table[0]).any(axis=0))
    if differing.size:
        first = differing[0]
        values, group = np.unique(table[:, first], return_inverse=True)
        groups = [np.flatnonzero(group == g).tolist() for g in range(len(values))]
        raise ReplicasDiverged(
            f"step {step}: the ranks are no longer in lockstep. First difference: variable "
            f"'{entries[first].path}' ({differing.size} of {len(entries)} variables differ); ranks "
            f"that agree with each other: {sorted(groups)}. Every rank must apply the same "
            "reduced gradients from the same start: is the optimizer an "
            "app.distributed.DistributedOptimizer, and was the initial state broadcast?"
        )
