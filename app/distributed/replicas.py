"""What brings replicas together: the initial broadcast, and what a commit point makes of state."""

from typing import Any

import keras
import numpy as np

from app.distributed.world import World
from app.state import Kind, reseed, state_variables


def broadcast_state(
    world: World,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    seed: int,
    step: int,
    root: int = 0,
) -> None:
    """Give every rank the variables of rank `root`, the optimizer's included; a collective.

    Random generators are not copied: each rank derives its own from (seed, rank, step), so that
    dropout and augmentation differ between ranks.
    """
    entries = state_variables(model, optimizer)
    world.broadcast_variables([e.variable for e in entries if e.kind is not Kind.DERIVED], root)
    reseed(model, seed, world.rank, step)


def settle(world: World, model: keras.Model, optimizer: Any, examples: float) -> None:
    """Bring every rank's state to the one of a commit point; a collective.

    What the optimizer's strategy has pending is finished. Averaged variables become their mean over
    ranks, each rank counting by the `examples` that it has trained on since the last commit point;
    if no rank has any, they are left as they are.
    Summed variables become the sum over ranks divided by their number, so that nothing is lost of
    what ranks still owe to the update. A moving average of the weights follows, since all ranks
    have the same ones now.
    """
    if hasattr(optimizer, "settle"):
        optimizer.settle()
    entries = state_variables(model, optimizer)
    _average([e.variable for e in entries if e.kind is Kind.AVERAGED], world, examples)
    _deal([e.variable for e in entries if e.kind is Kind.SUMMED], world)
    average = getattr(model, "weight_average", None)
    if average is not None:
        average.settled(optimizer.iterations)


def _average(variables: list[keras.Variable], world: World, examples: float) -> None:
    if not variables or world.size == 1:
        return
    values = [variable.numpy().astype(np.float64) for variable in variables]
    # Not 0 * statistics: a rank without an example may hold anything.
    weighed = [value * examples if examples else np.zeros_like(value) for value in values]
    *sums, total = _sums(world, [*weighed, np.array(float(examples))])
    if total:
        _assign(variables, [each / total for each in sums])


def _deal(variables: list[keras.Variable], world: World) -> None:
    if not variables or world.size == 1:
        return
    values = [variable.numpy() for variable in variables]
    wide = [value.astype(np.promote_types(value.dtype, np.float32)) for value in values]
    _assign(variables, [each / world.size for each in _sums(world, wide)])


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
    _assign(variables, _sums(world, [value.astype(np.float64) for value in local]))
    results = {metric.name: float(metric.result()) for metric in metrics}
    _assign(variables, local)
    return results


def _sums(world: World, values: list[np.ndarray]) -> list[np.ndarray]:
    """The sum over ranks of each array, in one exchange."""
    total = world.sum(np.concatenate([value.ravel() for value in values]))
    pieces = np.split(total, np.cumsum([value.size for value in values])[:-1])
    return [piece.reshape(value.shape) for piece, value in zip(pieces, values, strict=True)]


def _assign(variables: list[keras.Variable], values: list[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value.astype(variable.numpy().dtype))
