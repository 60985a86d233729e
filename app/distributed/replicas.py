"""What brings replicas together: the initial broadcast, and per-rank state before it is saved."""

from typing import Any

import keras
import numpy as np

from app.distributed.world import World
from app.state import Kind, reseed, state_variables


def broadcast_state(
    world: World, model: keras.Model, optimizer: keras.optimizers.Optimizer, seed: int, step: int
) -> None:
    """Give every rank the chief's variables, the optimizer's included; a collective.

    Random generators are not copied: each rank derives its own from (seed, rank, step), so that
    dropout and augmentation differ between ranks.
    """
    entries = state_variables(model, optimizer)
    world.broadcast_variables([e.variable for e in entries if e.kind is not Kind.DERIVED])
    reseed(model, seed, world.rank, step)


def settle(world: World, model: keras.Model, optimizer: Any, examples: float) -> None:
    """Bring the state of all ranks to one, as every commit point begins; a collective.

    `examples`: those that this rank has trained on since the last time.
    """
    average_statistics(world, model, examples)
    if hasattr(optimizer, "settle"):
        optimizer.settle()


def average_statistics(world: World, model: keras.Model, examples: float) -> None:
    """Replace BatchNorm's moving statistics by their mean over ranks, in place; a collective.

    A rank counts by the `examples` that it has trained on since its statistics were those of all
    ranks: what they have taken in. If no rank had any, they are left as they are.
    """
    variables = [e.variable for e in state_variables(model) if e.kind is Kind.AVERAGED]
    if not variables or world.size == 1:
        return
    values = [variable.numpy() for variable in variables]
    flat = np.concatenate([value.ravel() for value in values]).astype(np.float64)
    # Not 0 * statistics: a rank without an example may hold anything.
    weighed = flat * examples if examples else np.zeros_like(flat)
    total = world.sum(np.append(weighed, float(examples)))
    if not total[-1]:
        return
    pieces = np.split(total[:-1] / total[-1], np.cumsum([value.size for value in values])[:-1])
    for variable, value, piece in zip(variables, values, pieces, strict=True):
        variable.assign(piece.reshape(value.shape).astype(value.dtype))


def sum_metrics(world: World, metrics: list[keras.metrics.Metric]) -> dict[str, float]:
    """Results of Keras metrics over the examples of all ranks; a collective.

    The states are summed, then each result is computed once: exact for metrics whose state is
    made of sums and counts (means, accuracies, precision, recall, AUC, F1). The metrics keep
    their local state.
    """
    variables = [variable for metric in metrics for variable in metric.variables]
    if world.size == 1 or not variables:
        return {metric.name: float(metric.result()) for metric in metrics}
    local = [variable.numpy() for variable in variables]
    flat = np.concatenate([value.ravel().astype(np.float64) for value in local])
    total = np.split(world.sum(flat), np.cumsum([value.size for value in local])[:-1])
    for variable, value, piece in zip(variables, local, total, strict=True):
        variable.assign(piece.reshape(value.shape).astype(value.dtype))
    results = {metric.name: float(metric.result()) for metric in metrics}
    for variable, value in zip(variables, local, strict=True):
        variable.assign(value)
    return results
