"""How a pretrained encoder learns: which of its stages, and at which rate."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from app.config import Config
from models.table import MODELS


def freeze(config: Config, network: keras.Model, unfrozen: bool) -> None:
    """Let the stages of the encoder learn or not, as the config says; `unfrozen`: all learn.

    What does not learn has no slots in an optimizer, and no gradient that could be exchanged;
    BatchNorm in it keeps its statistics.
    """
    frozen = "none" if unfrozen else config.fine_tuning.freeze
    for number, stage in enumerate(stages(config, network)):
        learns = frozen == "none" or (frozen == "embeddings" and number > 0)
        for layer in stage:
            layer.trainable = learns


def stages(config: Config, network: keras.Model) -> list[list[keras.layers.Layer]]:
    """The layers of the encoder from its input to its head, by stage."""
    model, found = MODELS[config.model.model], dict[str, list[keras.layers.Layer]]()
    for layer in network.layers:
        if stage := model.stage_of(layer.name):
            found.setdefault(stage, []).append(layer)
    return list(found.values())


def rates(config: Config, paths: Sequence[str]) -> list[float]:
    """What the learning rate is multiplied by, for the variables of a network with these paths, in
    its order.

    The head has 1, the last stage of the encoder encoder_learning_rate / learning_rate, and each
    stage before it layer_decay times that of the next (Clark et al. 2020, arXiv:2003.10555).
    """
    wanted, model = config.fine_tuning, MODELS[config.model.model]
    of_paths = [model.stage_of(path) for path in paths]
    order = list(dict.fromkeys(stage for stage in of_paths if stage))
    peak = config.optimizer.learning_rate
    last = (wanted.encoder_learning_rate or peak) / peak
    found = {
        stage: last * wanted.layer_decay**before for before, stage in enumerate(reversed(order))
    }
    return [found[stage] if stage else 1.0 for stage in of_paths]


def with_rates(kind: type[keras.optimizers.Optimizer], config: Config) -> Any:
    """The optimizer class `kind`, with a rate for each variable: `kind` itself if all learn alike.

    Weight decay goes by these rates too.
    """
    wanted = config.fine_tuning
    if wanted.encoder_learning_rate is None and wanted.layer_decay == 1:
        return kind

    class WithRates(kind):  # type: ignore[misc, valid-type]
        def build(self, variables: Sequence[keras.Variable]) -> None:
            super().build(variables)
            self._rates = np.array(rates(config, [one.path for one in variables]), np.float32)

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            super().update_step(gradient, variable, learning_rate * self._rate_of(variable))

        def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
            for variable in variables if self.weight_decay is not None else ():
                if self._use_weight_decay(variable):
                    value = getattr(variable, "value", variable)
                    rate = self.weight_decay * self.learning_rate * self._rate_of(variable)
                    value.assign_sub(value * tf.cast(rate, value.dtype))

        def _rate_of(self, variable: Any) -> np.float32:
            return self._rates[self._get_variable_index(variable)]

    return WithRates
