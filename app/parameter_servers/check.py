"""What does not go with parameter servers, refused by name, and what goes badly. Loads no
TensorFlow."""

import logging

from app.config import Config, Distribution
from app.errors import UserError
from app.monitor.options import Monitoring

LOG = logging.getLogger(__name__)
MOST_MOMENTUM = 0.5
MEANT_FOR_BOTH = ("max_staleness", "step_timeout_s", "phase_timeout_s")


def check(config: Config, monitoring: Monitoring | None = None) -> None:
    """Raise UserError for a key that parameter servers cannot honour."""
    for key, field in Distribution.model_fields.items():
        value = getattr(config.distribution, key)
        if key not in MEANT_FOR_BOTH and value != field.default:
            raise UserError(
                f"{key} = {value!r} is about ranks that exchange through Horovod, and parameter "
                "servers have none: leave it out, or train with launch/local.sh or launch/hosts.sh"
            )
    training = config.training
    if training.backward_passes_per_step > 1:
        raise UserError(
            f"backward_passes_per_step = {training.backward_passes_per_step}: with parameter "
            "servers every batch is an update of its own: leave it out, and make batches larger"
        )
    if training.ema_examples:
        raise UserError(
            f"ema_examples = {training.ema_examples}: with parameter servers nobody holds the "
            "weights of one step, whose average this is: leave it out"
        )
    if training.precision == "mixed_float16":
        raise UserError(
            "precision = 'mixed_float16' needs a loss scale that all agree on, and workers on "
            "parameter servers do not wait for each other: use mixed_bfloat16 or float32"
        )
    if monitoring and (monitoring.timeline or monitoring.profile):
        flag = "--timeline" if monitoring.timeline else "--profile"
        raise UserError(
            f"{flag} records what ranks do, and a coordinator of parameter servers computes "
            "nothing: leave it out"
        )


def warn_of_momentum(config: Config, workers: int) -> None:
    """Say so where late gradients are likely to make training unstable.

    On a quadratic of curvature c, SGD with momentum m and the rate a, whose gradients are one
    update late, is z^2 - (1 + m) z + m + a c: stable only for a c < 1 - m, without delay up to
    2 (1 + m). So asynchrony wants less momentum (Mitliagkas et al. 2016, arXiv:1605.09774).
    """
    wanted = config.optimizer
    is_late = workers > 1 or config.distribution.max_staleness > 0
    if wanted.optimizer in ("sgd", "lars") and wanted.momentum > MOST_MOMENTUM and is_late:
        share = 2 * (1 + wanted.momentum) / max(1 - wanted.momentum, 1e-3)
        LOG.warning(
            "momentum = %g: with gradients that come one update late, training is stable only up "
            "to 1/%.0f of the learning rate that it bears otherwise, and may fail without an error "
            "(46 instead of 68%% on CIFAR-10); use a momentum of 0 to %g, a lower "
            "learning rate, or optimizer = 'adam', which suffers less",
            wanted.momentum,
            share,
            MOST_MOMENTUM,
        )
