"""TrainState: all that a run is made of at one moment. Knows no worker and no file.

A checkpoint stores it, resume restores it, the lockstep guard compares its replicated part.
"""

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

POSITION = (
    "seed",
    "step",
    "epoch",
    "examples_seen",
    "halvings",
    "unfrozen_at",
)  # the plain numbers of a TrainState


class Kind(enum.Enum):
    """What a variable may do between ranks, and what becomes of it at a commit point."""

    REPLICATED = "the same bits on every rank; guarded, saved"
    AVERAGED = "per rank (BatchNorm's moving statistics); averaged by examples, then saved"
    SUMMED = "per rank (error-feedback residuals); every rank gets sum / size, then saved"
    DERIVED = "per rank (random generators); from (seed, rank, step), never saved"
    LOCAL = "per rank (accumulators); empty at a commit point, never saved"


SAVED = (Kind.REPLICATED, Kind.AVERAGED, Kind.SUMMED)


@dataclasses.dataclass(frozen=True)
class StateVariable:
    """A Keras variable, the path that names it in every process, and its kind.

    `optional`: what it holds is found out anew if a checkpoint lacks it.
    """

    path: str
    variable: keras.Variable
    kind: Kind
    optional: bool = False


def declare(variable: keras.Variable, kind: Kind, optional: bool = False) -> keras.Variable:
    """Say of what kind a variable is: for whoever makes it. Gives the variable back."""
    variable.lockstep_kind, variable.lockstep_optional = kind, optional
    return variable


def state_variables(model: keras.Model, optimizer: Any = None) -> list[StateVariable]:
    """Every variable of the model and the optimizer, in the same order on every rank.

    Raises ValueError if two variables have the same path: give the layers names.
    """
    of_keras = _kinds_of_keras(model)
    found = [
        StateVariable(
            variable.path,
            variable,
            getattr(variable, "lockstep_kind", of_keras.get(id(variable), Kind.REPLICATED)),
            getattr(variable, "lockstep_optional", False),
        )
        for variable in [*model.variables, *_beside(model), *_optimizer_variables(optimizer)]
    ]
    paths = [entry.path for entry in found if entry.kind is not Kind.DERIVED]
    if len(paths) != len(set(paths)):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ValueError(f"two variables are called '{twice}': give the layers distinct names")
    return found


def _kinds_of_keras(model: keras.Model) -> dict[int, Kind]:
    """The kinds, by id, of those variables of Keras' own layers that are not replicated. Statistics
    of a layer that is frozen do not move."""
    kinds: dict[int, Kind] = {}
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            kinds |= {id(v): Kind.AVERAGED for v in (layer.moving_mean, layer.moving_variance)}
    generators = (v for v in model.variables if v.path.endswith("seed_generator_state"))
    return kinds | {id(variable): Kind.DERIVED for variable in generators}


def _beside(model: keras.Model) -> list[keras.Variable]:
    """Those that belong to a run, but neither to its network nor to its optimizer."""
    return [variable for part in getattr(model, "beside", ()) for variable in part.variables]


def _optimizer_variables(optimizer: Any) -> Sequence[keras.Variable]:
    if optimizer is None:
        return []
    try:
        return optimizer.variables
    except TypeError:  # Horovod's own Keras optimizer: its `.variables` calls a list
        return []


def reseed(model: keras.Model, seed: int, rank: int, step: int) -> None:
    """Give each random generator of the model its own stream for (seed, rank, step)."""
    for index, entry in enumerate(e for e in state_variables(model) if e.kind is Kind.DERIVED):
        words = np.random.SeedSequence([seed, rank, step, index]).generate_state(2, np.uint32)
        dtype = keras.backend.standardize_dtype(entry.variable.dtype)
        limit = np.iinfo(dtype).max
        entry.variable.assign(np.array([int(word) & limit for word in words], dtype=dtype))


@dataclasses.dataclass
class TrainState:
    """A run at one moment: its variables and where it is in the data.

    `epoch` counts finished epochs, `step` optimizer updates, `examples_seen` the examples of the
    current epoch that all ranks have seen together, `halvings` how often a jump of the loss has
    halved the learning rate. `unfrozen_at` is the step at which what was frozen began to learn,
    with a new optimizer; 0: it has not. `renew` makes the optimizer for either case.
    """

    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    seed: int
    step: int = 0
    epoch: int = 0
    examples_seen: int = 0
    halvings: int = 0
    unfrozen_at: int = 0
    renew: Callable[["TrainState"], None] | None = None

    @property
    def rate(self) -> float:
        """What is left of the learning rate."""
        return 0.5**self.halvings

    @property
    def entries(self) -> list[StateVariable]:
        """All variables with their kinds."""
        return state_variables(self.model, self.optimizer)

    @property
    def position(self) -> dict[str, int]:
        """Where the run is, as plain numbers."""
        return {name: getattr(self, name) for name in POSITION}

    def move_to(self, position: Mapping[str, int]) -> None:
        """The inverse of `position`; what is frozen, and the optimizer, are those of that place."""
        was_unfrozen = bool(self.unfrozen_at)
        for name, value in position.items():
            setattr(self, name, value)
        if self.renew is not None and was_unfrozen != bool(self.unfrozen_at):
            self.renew(self)
