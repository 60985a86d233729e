"""DistributedOptimizer: a Keras 3 optimizer that makes N workers take one worker's step.

It is put together from a strategy (when ranks communicate) and a reducer (how). The path of a
gradient, in order:

1. `DistributedOptimizer.apply(gradients, variables, weight=n)`: checks that all ranks have
   gradients of the same kinds (kinds.py);
2. `strategy.apply` (strategies/): `Accumulate` keeps the weighted sum of several passes,
   `EveryStep` goes on at once;
3. `Parts.mean` (strategies/strategy.py): takes the loss scale away, scales by what this rank
   counts for, its share n_r / sum(n), and tells all ranks if a number is not finite (signals.py);
4. `reducer.reduce` (reducers/): `SparseRows` and `DenseBuckets` compress, sum over ranks by the
   collectives of `World`, and decompress;
5. `Parts.update`, unless numbers have gone bad: the wrapped optimizer, with its loss scale,
   clipping and weight decay, sees sum(n_r * g_r) / sum(n_r), which is the gradient of the mean loss
   over the global batch.

It is outermost on purpose: every rank takes part in every exchange, and hears of an overflow on
any of them, so all skip the same step of a loss-scaling optimizer.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from app.distributed.horovod_world import current_world
from app.distributed.kinds import AgreedKinds
from app.distributed.options import Sync, Wire
from app.distributed.reducers import make_reducer
from app.distributed.reducers.codec import Compressor
from app.distributed.reducers.reducer import Reducer
from app.distributed.signals import Signals
from app.distributed.strategies import KEEP_GRADIENTS, WITH_ROUNDS, make_strategy
from app.distributed.strategies.accumulate import Accumulate
from app.distributed.strategies.strategy import Parts
from app.distributed.telemetry import Telemetry
from app.distributed.world import World
from app.state import Kind, declare

MEGABYTE = 1_000_000
OPS = ("weighted", "average")
PLAIN = ("none", "fp16")  # compressions that keep nothing from step to step
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
        compression: a name of `app.distributed.reducers.COMPRESSIONS`, whose files say what they
            do; an object with Horovod's `compress` / `decompress`, which is given 1-D
            buckets, and the values of sparse gradients; or a `Reducer`.
        op: "weighted" (default: ranks count by the `weight` they pass to `apply`, 1 without) or
            "average" (every rank counts the same; Horovod's `hvd.Average` is accepted too).
        backward_passes_per_step: exchange and update only at every k-th `apply`, with the weighted
            mean over the k passes of all ranks (Horovod's own optimizer sums the passes instead).
        process_set: a `hvd.ProcessSet` that exchanges among its ranks; default all ranks.
        sparse_as_dense: exchange `tf.IndexedSlices` (gradients of embeddings) as dense tensors;
            otherwise values and indices are gathered, and duplicate indices added up.
        wire: options of the compression.
        strategy: when ranks communicate; a name of `app.distributed.strategies.STRATEGIES`.
        sync: options of the strategy.
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
        compression: str | Compressor | Reducer = "none",
        wire: Wire | None = None,
        strategy: str = "every_step",
        sync: Sync | None = None,
        op: str | int = "weighted",
        backward_passes_per_step: int = 1,
        process_set: Any = None,
        sparse_as_dense: bool = False,
        bucket_mb: float = 25,
        world: World | None = None,
        name: str | None = None,
    ):
        _check_options(optimizer, op, backward_passes_per_step, bucket_mb)
        if compression == "topk":
            _check_momentum(optimizer, wire or Wire(), strategy)
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
        self.wire = wire or Wire()
        self.strategy_name = strategy
        self.sync = sync or Sync()
        self.telemetry = Telemetry()
        self.signals = Signals()
        self.world = world or current_world(process_set)
        # What waits in variables is dense.
        keeps_gradients = backward_passes_per_step > 1 or strategy in KEEP_GRADIENTS
        all_dense = sparse_as_dense or keeps_gradients
        # Follows from the place in the run, so it is no state. On the CPU, as a condition is.
        with tf.init_scope(), tf.device("CPU"):
            self._epoch = tf.Variable(0.0, trainable=False)
        bucket_bytes = int(bucket_mb * MEGABYTE)
        self.reducer = make_reducer(compression, bucket_bytes, all_dense, self.wire, self._epoch)
        self._parts = Parts(
            optimizer,
            self.reducer,
            self.world,
            self.telemetry,
            self.signals,
            name or "lockstep",
            self._epoch,
        )
        self.strategy = make_strategy(strategy, self._parts, self.sync)
        self.reducer = self.strategy.parts.reducer  # the strategy may have put its own around it
        if backward_passes_per_step > 1:
            self.strategy = Accumulate(
                self.strategy, self.world, self.signals, backward_passes_per_step
            )
        # Whether whoever drives the training calls `settle()` at commit points, as they say here.
        self.settles = False
        self._kinds = AgreedKinds(self.world, all_dense)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create the variables of the strategy, the reducer and the inner optimizer."""
        if self.built:
            return
        if not self.inner_optimizer.built:
            with keras.name_scope(self.inner_optimizer.name, caller=self.inner_optimizer):
                self.inner_optimizer.build(variables)
        self.strategy.build(variables, self.add_variable)
        self.reducer.build(variables, self.add_variable)
        keras.optimizers.Optimizer.build(self, variables)

    def add_variable(
        self,
        *args: Any,
        kind: Kind = Kind.REPLICATED,
        optional: bool = False,
        **options: Any,
    ) -> keras.Variable:
        """Keras' `add_variable`, and what `app.state` is to know of the variable."""
        return declare(super().add_variable(*args, **options), kind, optional)

    @tf.autograph.experimental.do_not_convert
    def apply(
        self,
        grads: Sequence[Any],
        trainable_variables: Sequence[keras.Variable] | None = None,
        weight: Any = None,
        total_weight: Any = None,
        loss: Any = None,
    ) -> None:
        """Exchange this rank's gradients and update the variables.

        If a gradient or the loss of any rank is not finite, the step is skipped on all ranks: no
        variable changes, `iterations` included, and `signals` says so.

        Args:
            grads: per variable a float `tf.Tensor`, `tf.IndexedSlices` or None: the gradient of
                the mean loss over this rank's examples. With weight 0 its values are ignored.
            trainable_variables: the variables; may be left out once built.
            weight: the number of examples behind `grads`, a number or scalar tensor >= 0.
                None: every rank counts 1.
            total_weight: the sum of all ranks' weights of this pass, where the caller knows it, in
                every pass or in none. None: one float32 scalar is summed over ranks, started
                before the forward pass because it depends on nothing else.
            loss: the mean loss over this rank's examples, a scalar, without its loss scale. None:
                only the gradients are looked at.
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
        self._kinds.check(grads, trainable_variables)
        if loss is not None:
            self.signals.note_loss(loss, weight)
        self.strategy.apply(grads, trainable_variables, weight, total_weight)

    def move_to(self, epoch: float) -> None:
        """Training is at this epoch (may be a fraction), where options say "from epoch"."""
        self._epoch.assign(np.array(epoch, np.float32))  # TensorFlow keeps every Python float

    @property
    def is_equal_after_steps(self) -> bool:
        """Whether all ranks hold the same variables after each step, not only at settles."""
        return self.strategy.is_equal_after_steps

    @property
    def are_equal(self) -> Any:
        """Whether all ranks hold the same variables now, bool (); in the graph of a step, after
        `apply`. The same on every rank."""
        return self.strategy.are_equal()

    @property
    def is_plain(self) -> bool:
        """Whether a step writes nothing before all its exchanges are done, so that one which fails
        leaves the last whole step; and has the same graph for any number of ranks."""
        return (
            self.strategy_name == "every_step"
            and self.backward_passes_per_step == 1
            and self.compression in PLAIN
        )

    @property
    def sums_each_step(self) -> bool:
        """Whether each update is made of the gradients of all ranks."""
        return self.strategy.is_equal_after_steps

    @property
    def ranks(self) -> tf.Tensor:
        """How many ranks there are, float32 ()."""
        return self.world.size_tensor()

    @property
    def shares(self) -> Any:
        """What a rank multiplies its share of the mean loss of a step by, before it differentiates
        it: gradients that weigh the same are averaged over ranks and passes."""
        return self.ranks * self.backward_passes_per_step if self.sums_each_step else 1.0

    def sum_counts(self, own: tf.Tensor) -> tf.Tensor:
        """The sum over ranks of what each counts in its batch; a collective, in the graph of a
        step. Raises ValueError where several batches make one step."""
        if self.backward_passes_per_step > 1:
            raise ValueError(
                "with backward_passes_per_step > 1 the labels of all passes of a step must be "
                "counted before the first: give `Batch`es with `counts`"
            )
        return self.world.allreduce(own, f"{self._parts.name}.counts")

    def forget(self) -> None:
        """Drop what an exchange that failed has left: what ranks have said, what is under way."""
        self.signals.forget()
        self.strategy.abandon()

    def forget_kinds(self) -> None:
        """Compare the kinds of gradients over ranks again, at the next trace of all of them."""
        self._kinds.forget()

    def settle(self) -> None:
        """Finish what is pending, so that all ranks have one state; a collective."""
        if self.built:
            self.strategy.settle()

    def check_settles(self) -> None:
        """Raise RuntimeError in a `fit()` that would end with models that differ between ranks, or
        with steps that are pending."""
        if self.strategy_name != "every_step" and not self.settles:
            raise RuntimeError(
                f"strategy={self.strategy_name!r} leaves ranks with different models, or steps "
                "undone, until settle() is called: give fit() the callback "
                "app.distributed.CommitPoints(), first in the list. In a training loop of your own "
                "call settle() before you evaluate or save, and set optimizer.settles = True"
            )

    def apply_gradients(self, grads_and_vars: Any) -> Any:
        """Keras' older spelling of `apply`, used by `fit()`."""
        self.check_settles()
        grads, variables = zip(*grads_and_vars, strict=True)
        self.apply(grads, variables)
        return self.iterations

    def scale_loss(self, loss: Any) -> Any:
        """The loss times the inner optimizer's loss scale, if it has one."""
        return self.inner_optimizer.scale_loss(loss)

    def get_config(self) -> dict[str, Any]:
        """Keras' serialisation; a compressor object of the user's own must be serialisable too."""
        return {
            "name": self.name,
            "optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
            "compression": self.compression,
            "wire": dataclasses.asdict(self.wire),
            "strategy": self.strategy_name,
            "sync": dataclasses.asdict(self.sync),
            "op": self.op,
            "backward_passes_per_step": self.backward_passes_per_step,
            "sparse_as_dense": self.sparse_as_dense,
            "bucket_mb": self.bucket_mb,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """The inverse of `get_config`."""
        inner = keras.saving.deserialize_keras_object(config.pop("optimizer"), custom_objects)
        wire, sync = Wire(**config.pop("wire", {})), Sync(**config.pop("sync", {}))
        return cls(inner, wire=wire, sync=sync, **config)


def _check_options(optimizer, op, backward_passes_per_step, bucket_mb) -> None:
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ValueError(f"optimizer={optimizer!r}: expected a keras.optimizers.Optimizer")
    if isinstance(optimizer, DistributedOptimizer):
        raise ValueError("the optimizer is distributed already: wrap it once")
    if op not in (*OPS, HOROVOD_AVERAGE):
        raise ValueError(f"op={op!r}: expected 'weighted', 'average' or hvd.Average")
    if backward_passes_per_step < 1:
        raise ValueError(f"backward_passes_per_step={backward_passes_per_step}: expected >= 1")
    if bucket_mb * MEGABYTE < 1:
        raise ValueError(f"bucket_mb={bucket_mb}: expected a positive size")


def _check_momentum(optimizer, wire: Wire, strategy: str) -> None:
    """Of topk: gradients get it while they travel, movements of models have had it."""
    own = getattr(getattr(optimizer, "inner_optimizer", optimizer), "momentum", None)
    if strategy not in WITH_ROUNDS and own:
        raise ValueError(
            "compression 'topk' makes the momentum itself: give SGD(momentum=0.0) and "
            f"wire=Wire(momentum={own})"
        )
    if strategy in WITH_ROUNDS and (wire.momentum or wire.clip_norm):
        raise ValueError(
            f"compression 'topk' with strategy '{strategy}' sends how models have moved, not "
            "gradients: give momentum and clipping to the optimizer inside, not to Wire"
        )


def _refuse_xla() -> None:
    """A Horovod operation cannot be compiled; say so before TensorFlow fails deep inside."""
    graph = tf.compat.v1.get_default_graph()
    if not tf.executing_eagerly() and control_flow_util.GraphOrParentsInXlaContext(graph):
        raise RuntimeError(
            "DistributedOptimizer.apply() is being compiled by XLA, and Horovod's collectives "
            "cannot be. Use model.compile(..., jit_compile=False) (Keras' default 'auto' turns "
            "XLA on where there is a GPU), or compile only the forward and backward pass."
        )
