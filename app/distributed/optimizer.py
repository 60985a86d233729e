"""DistributedOptimizer: a Keras 3 optimizer that makes N workers take one worker's step.

`apply(gradients, variables, weight=n)` does, in this order:

1. accumulate: keep the weighted sum of `backward_passes_per_step` local gradients;
2. scale: rank r multiplies its gradient g_r by n_r / sum(n), before any cast (float16 sums of
   unscaled gradients overflow);
3. compress, exchange and decompress: buckets of gradients are summed over ranks
   (exchange.py, buckets.py, compression.py, half.py);
4. update: the wrapped optimizer, with its loss scale, clipping and weight decay, sees
   sum(n_r * g_r) / sum(n_r), which is the gradient of the mean loss over the global batch.

It is outermost on purpose: every rank takes part in every exchange, and an overflow on one rank
reaches all of them in the sum, so all skip the same step of a loss-scaling optimizer.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from app.distributed.reducers.compression import Compressor
from app.distributed.reducers.exchange import GradientExchange
from app.distributed.telemetry import Telemetry
from app.distributed.world import World, current_world

MEGABYTE = 1_000_000
OPS = ("weighted", "average")
HOROVOD_AVERAGE = 0  # horovod.tensorflow.Average, without importing Horovod


# Keras' compile() puts a LossScaleOptimizer around any optimizer that is not one when the policy is
# mixed_float16; the exchange would then run inside a conditional that ranks may disagree about.
# Being one, we are left alone, and hold the LossScaleOptimizer inside.
@keras.saving.register_keras_serializable(package="lockstep")
class DistributedOptimizer(keras.optimizers.LossScaleOptimizer):
    """Wrap a Keras optimizer so that all ranks apply the same, globally weighted gradient.

    Args:
        optimizer: any `keras.optimizers.Optimizer`. Under the global policy mixed_float16 a plain
            one is put into a `keras.optimizers.LossScaleOptimizer` (a LossScaleOptimizer around
            this one is a ValueError at the first `apply`).
        compression: "none"; "fp16", float16 under a scale per bucket, kept as a variable of this
            optimizer; or an object with Horovod's `compress` / `decompress`, which is given 1-D
            buckets, and the values of sparse gradients.
        op: "weighted" (default: ranks count by the `weight` they pass to `apply`, 1 without) or
            "average" (every rank counts the same; Horovod's `hvd.Average` is accepted too).
        backward_passes_per_step: exchange and update only at every k-th `apply`, with the weighted
            mean over the k passes of all ranks (Horovod's own optimizer sums the passes instead).
        process_set: a `hvd.ProcessSet` that exchanges among its ranks; default all ranks.
        sparse_as_dense: exchange `tf.IndexedSlices` (gradients of embeddings) as dense tensors;
            otherwise values and indices are gathered, and duplicate indices added up.
        bucket_mb: gradients travel in buckets of at most so many megabytes (10^6 bytes).
        name: also the prefix of its collectives' names; must be the same on every rank.
        world: the ranks, as `connect()` gives them; default: those of the running Horovod.

    Raises:
        ValueError: for an option that is not valid. RuntimeError: when traced for XLA.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        *,
        compression: str | Compressor = "none",
        op: str | int = "weighted",
        backward_passes_per_step: int = 1,
        process_set: Any = None,
        sparse_as_dense: bool = False,
        bucket_mb: float = 25,
        world: World | None = None,
        name: str | None = None,
    ):
        _check_options(optimizer, op, backward_passes_per_step)
        # Not LossScaleOptimizer.__init__, which would turn off the inner optimizer's loss scale.
        keras.optimizers.Optimizer.__init__(self, learning_rate=0.0, name=name)
        if keras.config.dtype_policy().name == "mixed_float16" and not isinstance(
            optimizer, keras.optimizers.LossScaleOptimizer
        ):
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale")
        self.inner_optimizer = optimizer
        self.compression = compression
        self.op = "average" if op == HOROVOD_AVERAGE else op
        self.backward_passes_per_step = backward_passes_per_step
        self.sparse_as_dense = sparse_as_dense
        self.bucket_mb = bucket_mb
        self._knows_total: bool | None = None  # in the passes so far
        self.telemetry = Telemetry()
        self.exchange = GradientExchange(
            world or current_world(process_set),
            compression,
            bucket_bytes=int(bucket_mb * MEGABYTE),
            sparse_as_dense=sparse_as_dense or backward_passes_per_step > 1,
            name=name or "lockstep",
        )

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create the inner optimizer's variables, the wire's and, if passes accumulate, sums."""
        if self.built:
            return
        self._accumulators: list[keras.Variable] = []
        if self.backward_passes_per_step > 1:
            self._accumulators = self.add_optimizer_variables(variables, "accumulated_gradient")
            self._weight = self.add_variable((), dtype="float32", name="accumulated_weight")
            self._total = self.add_variable((), dtype="float32", name="accumulated_total")
            self._passes = self.add_variable((), dtype="int32", name="accumulated_passes")
        self.exchange.build(variables, self.add_variable)
        if not self.inner_optimizer.built:
            with keras.name_scope(self.inner_optimizer.name, caller=self.inner_optimizer):
                self.inner_optimizer.build(variables)
        keras.optimizers.Optimizer.build(self, variables)

    @tf.autograph.experimental.do_not_convert
    def apply(
        self,
        grads: Sequence[Any],
        trainable_variables: Sequence[keras.Variable] | None = None,
        weight: Any = None,
        total_weight: Any = None,
    ) -> None:
        """Exchange this rank's gradients and update the variables.

        Args:
            grads: per variable a float `tf.Tensor`, `tf.IndexedSlices` or None: the gradient of
                the mean loss over this rank's examples. With weight 0 its values are ignored.
            trainable_variables: the variables; may be left out once built.
            weight: the number of examples behind `grads`, a number or scalar tensor >= 0.
                None: every rank counts 1.
            total_weight: the sum of all ranks' weights of this pass, where the caller knows it, in
                every pass or in none. None: one float32 scalar is summed over ranks, started
                before the forward pass because it depends on nothing else.
        """
        _refuse_xla()
        if trainable_variables is None:
            trainable_variables = self._trainable_variables
        trainable_variables = list(trainable_variables)
        if not self.built:
            with keras.name_scope(self.name, caller=self):
                self.build(trainable_variables)
        if self.op == "average":
            weight = total_weight = None
        if self.backward_passes_per_step == 1:
            self._exchange_and_update(grads, trainable_variables, weight, total_weight)
        else:
            self._accumulate(grads, trainable_variables, weight, total_weight)

    def _exchange_and_update(self, grads, variables, weight, total_weight) -> None:
        reduced, total = self.exchange(grads, variables, weight, total_weight)
        sent = list(self.exchange.sent)
        self.telemetry.count_exchange(grads, reduced, sent)

        def update() -> bool:
            self.inner_optimizer.apply(reduced, variables)
            return True

        scale = getattr(self.inner_optimizer, "dynamic_scale", 1.0)
        # A step that no rank has an example for changes nothing, momentum and step count included.
        guarded = update if weight is None else lambda: tf.cond(total > 0, update, lambda: True)
        self.telemetry.watch(reduced, variables, sent, guarded, scale)

    def _accumulate(self, grads, variables, weight, total_weight) -> None:
        """Add the pass to the accumulators; at the k-th pass exchange, update and clear them."""
        if weight is None:
            weight, total_weight = 1.0, self.exchange.world.size_tensor()
        weight = tf.cast(weight, tf.float32)
        knows_total = total_weight is not None
        if self._knows_total not in (None, knows_total):
            raise ValueError("total_weight: give it in every pass, or in none")
        self._knows_total = knows_total
        if knows_total:
            self._total.assign_add(tf.cast(total_weight, tf.float32))
        slots = [self._accumulators[self._get_variable_index(v)] for v in variables]
        for slot, gradient in zip(slots, grads, strict=True):
            if gradient is not None:
                dense = tf.convert_to_tensor(gradient)
                slot.assign_add(tf.math.multiply_no_nan(dense, tf.cast(weight, dense.dtype)))
        self._weight.assign_add(weight)
        self._passes.assign_add(1)

        def flush():
            own = tf.convert_to_tensor(self._weight.value)
            means = [
                None
                if gradient is None
                else tf.math.divide_no_nan(slot.value, tf.cast(own, slot.dtype))
                for gradient, slot in zip(grads, slots, strict=True)
            ]
            total = tf.convert_to_tensor(self._total.value) if knows_total else None
            self._exchange_and_update(means, variables, own, total)
            for variable in (*slots, self._weight, self._total, self._passes):
                variable.assign(tf.zeros_like(variable.value))
            return True

        # Every rank counts the same passes, so all of them take the same branch.
        tf.cond(self._passes.value >= self.backward_passes_per_step, flush, lambda: True)

    def apply_gradients(self, grads_and_vars: Any) -> Any:
        """Keras' older spelling of `apply`, used by `fit()`."""
        grads, variables = zip(*grads_and_vars, strict=True)
        self.apply(grads, variables)
        return self.iterations

    @property
    def per_rank_variables(self) -> list[keras.Variable]:
        """Variables that rightly differ between ranks: what has been accumulated so far."""
        if not getattr(self, "_accumulators", None):
            return []
        return [*self._accumulators, self._weight, self._total]

    def scale_loss(self, loss: Any) -> Any:
        """The loss times the inner optimizer's loss scale, if it has one."""
        return self.inner_optimizer.scale_loss(loss)

    def get_config(self) -> dict[str, Any]:
        """Keras' serialisation; a compressor object of the user's own must be serialisable too."""
        return {
            "name": self.name,
            "optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
            "compression": self.compression,
            "op": self.op,
            "backward_passes_per_step": self.backward_passes_per_step,
            "sparse_as_dense": self.sparse_as_dense,
            "bucket_mb": self.bucket_mb,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """The inverse of `get_config`."""
        inner = keras.saving.deserialize_keras_object(config.pop("optimizer"), custom_objects)
        return cls(inner, **config)


def _check_options(optimizer, op, backward_passes_per_step) -> None:
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ValueError(f"optimizer={optimizer!r}: expected a keras.optimizers.Optimizer")
    if isinstance(optimizer, DistributedOptimizer):
        raise ValueError("the optimizer is distributed already: wrap it once")
    if op not in (*OPS, HOROVOD_AVERAGE):
        raise ValueError(f"op={op!r}: expected 'weighted', 'average' or hvd.Average")
    if backward_passes_per_step < 1:
        raise ValueError(f"backward_passes_per_step={backward_passes_per_step}: expected >= 1")


def _refuse_xla() -> None:
    """A Horovod operation cannot be compiled; say so before TensorFlow fails deep inside."""
    graph = tf.compat.v1.get_default_graph()
    if not tf.executing_eagerly() and control_flow_util.GraphOrParentsInXlaContext(graph):
        raise RuntimeError(
            "DistributedOptimizer.apply() is being compiled by XLA, and Horovod's collectives "
            "cannot be. Use model.compile(..., jit_compile=False) (Keras' default 'auto' turns "
            "XLA on where there is a GPU), or compile only the forward and backward pass."
        )
