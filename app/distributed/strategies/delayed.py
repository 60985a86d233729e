"""Delayed: the average of a round travels during the next one, and is merged at its end."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from app.distributed.options import Sync
from app.distributed.signals import times, wide_type
from app.distributed.strategies.averaging import Averaging, step_alone
from app.distributed.strategies.background import Background, OneByOne
from app.distributed.strategies.strategy import Parts
from app.state import Kind


class Delayed(Averaging):
    """Local steps with bounded staleness: nobody waits unless another is a whole round late.

    A round is `sync.every_steps` steps that each rank takes alone. At its end a rank notes how far
    it has moved in it, p_r, and e_r, its examples; a thread exchanges these during the next round.
    At the end of that, always after the same step, sum(e_r p_r) / sum(e_r) is merged: the rank's
    variables move by it and back by p_r. So they are the sum of all averages, which is the anchor
    and has the same bits on every rank, and what the rank itself has done since; and a repeated run
    has the same bits. If the exchange is not done by then the step waits, which counts as exposed
    exchange. `settle()` merges what is in flight and averages what ranks have done since.

    The movements go through the reducer, so they may be compressed. Other state is as in `Local`,
    and ranks hear of each other's signals where an average is merged, a round late.

    Raises ValueError without rounds.
    """

    is_equal_after_steps = False

    def __init__(self, parts: Parts, sync: Sync):
        if not sync.every_steps:
            raise ValueError("every_steps=0: expected at least 1 with the strategy 'delayed'")
        super().__init__(parts, Sync())
        self.every_steps = sync.every_steps
        self._background = Background()
        self._travel: Callable[[], Any] | None = None
        self._travels_between = 0  # so many ranks

    def build(self, variables: Sequence[Any], add_variable: Callable[..., Any]) -> None:
        """Create the anchor and what is in flight; all of it is empty at a commit point."""
        _check_threads()
        super().build(variables, add_variable)

        def like(variable: Any, what: str) -> Any:
            name = f"{variable.path.replace('/', '_')}_{what}"
            dtype = wide_type(variable.dtype).name
            return add_variable(variable.shape, dtype=dtype, name=name, kind=Kind.LOCAL)

        self._moved = [like(variable, "moved") for variable in variables]
        self._means = [like(variable, "mean_moved") for variable in variables]
        self._moved_by, self._told, self._heard = (
            add_variable(shape, dtype="float32", name=f"{name}_of_last_round", kind=Kind.LOCAL)
            for name, shape in (("examples", ()), ("told", (4,)), ("heard", (4,)))
        )
        self._steps = add_variable((), dtype="int32", name="steps_since_settled")

    def apply(
        self, gradients: Sequence[Any], variables: Sequence[Any], weight: Any, total: Any
    ) -> None:
        """See `Strategy`."""
        with tf.init_scope():
            self._prepare()
        tf.cond(tf.equal(self._steps.value, 0), self.anchor, lambda: True)
        self.count(step_alone(self.parts, gradients, variables, weight))
        self._steps.assign_add(1)
        # Every rank counts the same steps, so all of them take the same branch.
        ends = tf.equal(self._steps.value % self.every_steps, 0)
        tf.cond(ends, self._end_round, lambda: True)

    def _prepare(self) -> None:
        """Trace what the thread runs, for as many ranks as there are: here, where an error is
        seen."""
        if self._travels_between != self.parts.world.size:
            self._travels_between = self.parts.world.size
            self._travel = tf.function(self._exchange, autograph=False).get_concrete_function()

    def _end_round(self) -> bool:
        """Merge what has arrived, and send off what this round has done; in the graph of a step."""
        self._merge()
        for moved, variable, anchor in zip(
            self._moved, self._variables, self._anchors, strict=True
        ):
            # A number that is not finite any more goes on as that of the others.
            own = _wide(variable) - _wide(anchor)
            own = tf.where(tf.math.is_finite(own), own, 0)
            moved.assign(own)
            variable.assign(tf.cast(_wide(anchor) + own, variable.dtype))
        self._moved_by.assign(self._examples.value)
        self._examples.assign(0.0)
        self._told.assign(self.parts.signals.tell(tf.constant(1.0)))
        # The thread reads these, which TensorFlow does not know of.
        ready = [one.value for one in (*self._moved, self._moved_by, self._told)]
        with tf.control_dependencies(_in_graph([tf.identity(one) for one in ready])):
            _call(self._start)
        return True

    def _start(self) -> float:
        assert self._travel is not None
        self._background.start(self._travel)
        return 0.0

    def _wait(self) -> float:
        return self._background.wait()

    def _merge(self) -> None:
        """Wait for what is in flight, and move on by it; of the first round it is zeros."""
        own = [tf.identity(variable.value) for variable in self._variables]
        with tf.control_dependencies(_in_graph([tf.group(*own)])):
            waited_s = _call(self._wait)
        with tf.control_dependencies(_in_graph([waited_s])):
            means = [tf.identity(mean.value) for mean in self._means]
            heard = tf.identity(self._heard.value)
        self.parts.telemetry.count(waited_s)
        self.parts.signals.hear(tf.convert_to_tensor(self._told.value), heard)
        for variable, anchor, mean, moved in zip(
            self._variables, self._anchors, means, self._moved, strict=True
        ):
            variable.assign(tf.cast(_wide(variable) + (mean - moved.value), variable.dtype))
            anchor.assign(tf.cast(_wide(anchor) + mean, anchor.dtype))

    def _exchange(self) -> None:
        """What the thread does: from what this rank has moved to what ranks have on average."""
        parts, variables = self.parts, self._variables
        name = f"{parts.name_for(variables)}.delayed"
        own, total = parts.counted(self._moved_by.value, None, name)
        self._heard.assign(parts.world.allreduce(self._told.value, f"{name}.signals"))
        share = tf.math.divide_no_nan(own, total)
        shares = [times(moved.value, share) for moved in self._moved]
        reduced = parts.reducer.reduce(shares, variables, OneByOne(parts.world), name)
        parts.keep(reduced, total > 0)
        parts.telemetry.count(0.0, reduced.sent)
        for variable, mean in zip(self._means, reduced.gradients, strict=True):
            variable.assign(tf.where(total > 0, mean, 0))

    def are_equal(self) -> bool:
        """Each rank is ahead of the average that is in flight."""
        return False

    def settle(self) -> None:
        """Merge what is in flight, and average what ranks have done since."""
        steps = int(self._steps.numpy())
        if steps == 0:
            return
        self._merge()
        # What travelled last was the newest round, if that ends here.
        if steps % self.every_steps:
            self.round()
        else:
            self.stay()
        in_flight = (*self._moved, *self._means, self._moved_by, self._told, self._heard)
        for variable in (*in_flight, self._steps):
            variable.assign(tf.zeros_like(variable.value))

    def abandon(self) -> None:
        """Wait for the thread, whose exchange has failed too."""
        self._background.abandon()


def _call(work: Callable[[], float]) -> tf.Tensor:
    """Run Python, in the graph of a step too; its float64 ()."""
    with tf.device("CPU"):
        # Outside graphs a Python float would become a float32.
        result = tf.numpy_function(lambda: np.float64(work()), [], tf.float64)
        return tf.ensure_shape(result, ())


def _wide(variable: Any) -> tf.Tensor:
    return tf.cast(variable.value, wide_type(variable.dtype))


def _in_graph(tensors: list[Any]) -> list[Any]:
    """What to wait for; outside graphs everything is done already."""
    return [] if tf.executing_eagerly() else tensors


def _check_threads() -> None:
    """One thread of TensorFlow may be waiting in a step for the exchange, which needs another."""
    threads = tf.config.threading.get_inter_op_parallelism_threads()
    if (threads or len(os.sched_getaffinity(0))) < 2:
        raise ValueError(
            "the strategy 'delayed' needs two threads of TensorFlow, and there is one: call "
            "tf.config.threading.set_inter_op_parallelism_threads(2) before anything else"
        )
