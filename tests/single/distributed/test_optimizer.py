"""DistributedOptimizer in a world of one: it is the optimizer that it wraps."""

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.distributed.optimizer import DistributedOptimizer
from app.distributed.world import World

optimizers = keras.optimizers
START = [np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3), np.ones(3, np.float32)]


def distributed(inner: optimizers.Optimizer, **options: object) -> DistributedOptimizer:
    return DistributedOptimizer(inner, world=World(), name="distributed", **options)


def variables() -> list[keras.Variable]:
    return [keras.Variable(value, name=f"v{i}") for i, value in enumerate(START)]


def gradients(step: int) -> list[tf.Tensor]:
    random = np.random.default_rng(step)
    return [tf.constant(random.normal(size=v.shape).astype(np.float32)) for v in START]


def values(of: list[keras.Variable]) -> list[np.ndarray]:
    return [v.numpy() for v in of]


def applier(optimizer: DistributedOptimizer, to: list[keras.Variable], traced: bool) -> Callable:
    """apply(gradients, weight), eager or inside a tf.function."""
    optimizer.build(to)

    def apply(grads, weight):
        optimizer.apply(grads, to, weight=weight)

    return tf.function(apply) if traced else apply


def assert_close(left: list[np.ndarray], right: list[np.ndarray], **tolerance: float) -> None:
    for one, other in zip(left, right, strict=True):
        np.testing.assert_allclose(one, other, **{"rtol": 1e-6, "atol": 1e-7, **tolerance})


INNER: dict[str, Callable[[], optimizers.Optimizer]] = {
    **{
        cls.__name__: cls
        for cls in (
            optimizers.SGD,
            optimizers.Adam,
            optimizers.AdamW,
            optimizers.RMSprop,
            optimizers.Adagrad,
            optimizers.Adadelta,
            optimizers.Adamax,
            optimizers.Nadam,
            optimizers.Ftrl,
            optimizers.Lion,
            optimizers.Lamb,
            optimizers.Adafactor,
        )
    },
    "momentum and weight decay": lambda: optimizers.SGD(0.1, momentum=0.9, weight_decay=0.1),
    "clipped": lambda: optimizers.Adam(0.1, global_clipnorm=0.5),
    "averaged": lambda: optimizers.SGD(0.1, use_ema=True, ema_overwrite_frequency=2),
    "loss scale": lambda: optimizers.LossScaleOptimizer(optimizers.SGD(0.1), initial_scale=4.0),
}


@pytest.mark.parametrize("name", INNER)
def test_it_does_what_the_optimizer_inside_does(name: str) -> None:
    bare, wrapped = INNER[name](), distributed(INNER[name]())
    expected, ours = variables(), variables()
    for step in range(4):
        bare.apply(gradients(step), expected)
        wrapped.apply(gradients(step), ours, weight=5)
        assert_close(values(ours), values(expected))
    assert not np.allclose(values(ours)[0], START[0])
    assert int(wrapped.iterations) == 4


@pytest.mark.parametrize("traced", [False, True])
def test_accumulated_passes_make_the_step_of_the_large_batch(traced: bool) -> None:
    weights = [5, 0, 2]
    wrapped = distributed(optimizers.SGD(0.1, momentum=0.9), backward_passes_per_step=3)
    bare, ours, expected = optimizers.SGD(0.1, momentum=0.9), variables(), variables()
    apply = applier(wrapped, ours, traced)
    for step in range(2):
        passes = [gradients(10 * step + number) for number in range(3)]
        for number in range(3):
            before = values(ours)
            apply(passes[number], tf.constant(weights[number]))
            if number < 2:
                assert_close(values(ours), before, rtol=0, atol=0)
        mean = [
            sum(w * g for w, g in zip(weights, part, strict=True)) / sum(weights)
            for part in zip(*passes, strict=True)
        ]
        bare.apply(mean, expected)
        assert_close(values(ours), values(expected))
    assert int(wrapped.iterations) == 2
    assert all(not v.numpy().any() for v in wrapped.variables if "accumulated" in v.path)


class CountingWorld(World):
    """A world of one that notes its collectives."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def allreduce(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        self.called.append(name.split(".")[-2 if "bucket" in name else -1])
        return tensor


@pytest.mark.parametrize(
    ("weights", "totals", "collectives"),
    [
        ([5, 2], [5, 2], ["bucket"]),
        ([5, 2], [None, None], ["weight", "bucket"]),
        ([None, None], [None, None], ["bucket"]),
    ],
)
def test_totals_of_accumulated_passes_save_a_collective(weights, totals, collectives) -> None:
    world, ours = CountingWorld(), variables()
    wrapped = DistributedOptimizer(optimizers.SGD(1.0), world=world, backward_passes_per_step=2)
    for number, (weight, total) in enumerate(zip(weights, totals, strict=True)):
        wrapped.apply(gradients(number), ours, weight=weight, total_weight=total)
    assert world.called == collectives
    counts = [weight or 1 for weight in weights]
    halves = zip(gradients(0), gradients(1), strict=True)
    means = [(counts[0] * a + counts[1] * b) / sum(counts) for a, b in halves]
    assert_close(values(ours), [v - m.numpy() for v, m in zip(START, means, strict=True)])


def test_a_total_of_some_passes_only_is_refused() -> None:
    wrapped = distributed(optimizers.SGD(1.0), backward_passes_per_step=2)
    wrapped.apply(gradients(0), variables(), weight=1, total_weight=1)
    with pytest.raises(ValueError, match="total_weight: give it in every pass"):
        wrapped.apply(gradients(1), wrapped._trainable_variables, weight=1)


@pytest.mark.parametrize("traced", [False, True])
def test_settling_makes_a_step_of_the_passes_that_are_pending(traced: bool) -> None:
    wrapped = distributed(optimizers.SGD(0.1, momentum=0.9), backward_passes_per_step=3)
    bare, ours, expected = optimizers.SGD(0.1, momentum=0.9), variables(), variables()
    apply = applier(wrapped, ours, traced)
    wrapped.settle()  # nothing is pending
    assert_close(values(ours), START, rtol=0, atol=0)
    for number, weight in enumerate([1, 3]):
        apply(gradients(number), tf.constant(weight))
    wrapped.settle()
    pairs = zip(gradients(0), gradients(1), strict=True)
    bare.apply([(one + 3 * other) / 4 for one, other in pairs], expected)
    assert_close(values(ours), values(expected))
    assert int(wrapped.iterations) == 1
    assert all(not v.numpy().any() for v in wrapped.variables if "accumulated" in v.path)
    wrapped.settle()
    assert_close(values(ours), values(expected))


def test_without_a_weight_accumulated_passes_count_the_same() -> None:
    wrapped, bare = (
        distributed(optimizers.SGD(1.0), backward_passes_per_step=2),
        optimizers.SGD(1.0),
    )
    ours, expected = variables(), variables()
    for number in range(2):
        wrapped.apply(gradients(number), ours)
    halves = zip(gradients(0), gradients(1), strict=True)
    bare.apply([(one + other) / 2 for one, other in halves], expected)
    assert_close(values(ours), values(expected))


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_a_gradient_that_is_none_leaves_its_variable() -> None:
    for passes in (1, 2):
        wrapped = distributed(optimizers.SGD(1.0), backward_passes_per_step=passes)
        ours = variables()
        for number in range(passes):
            wrapped.apply([None, gradients(number)[1]], ours, weight=1)
        np.testing.assert_array_equal(ours[0].numpy(), START[0])
        assert not np.allclose(ours[1].numpy(), START[1])


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_a_later_trace_with_other_gradients_is_an_error_that_names_the_variable() -> None:
    wrapped, ours = distributed(optimizers.SGD(1.0)), variables()
    wrapped.build(ours)

    @tf.function
    def step(skipped: int):  # each number is a graph of its own
        given = [None if i == skipped else g for i, g in enumerate(gradients(0))]
        wrapped.apply(given, ours, weight=1)

    step(1)
    with pytest.raises(ValueError, match="'v0' is none now and dense before"):
        step(0)
    before = values(ours)
    step(1)
    assert not np.array_equal(values(ours)[0], before[0])


NAN = [tf.fill(v.shape, np.nan) for v in START]


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("traced", [False, True])
def test_a_total_weight_of_zero_changes_nothing_even_with_nan(passes: int, traced: bool) -> None:
    wrapped = distributed(optimizers.SGD(0.1, momentum=0.9), backward_passes_per_step=passes)
    ours = variables()
    apply = applier(wrapped, ours, traced)
    for step in range(passes):
        apply(gradients(step), tf.constant(3))
    before = values([*ours, *wrapped.variables])
    for _ in range(passes):
        apply(NAN, tf.constant(0))
    assert_close(values([*ours, *wrapped.variables]), before, rtol=0, atol=0)
    assert int(wrapped.iterations) == 1


def test_a_pass_of_no_examples_with_nan_does_not_reach_the_step() -> None:
    wrapped, ours = distributed(optimizers.SGD(1.0), backward_passes_per_step=2), variables()
    wrapped.apply(NAN, ours, weight=0)
    wrapped.apply(gradients(0), ours, weight=4)
    expected = [start - g.numpy() for start, g in zip(START, gradients(0), strict=True)]
    assert_close(values(ours), expected)


def test_average_ignores_the_weight() -> None:
    for op in ("average", 0):  # 0 is hvd.Average
        wrapped, ours = distributed(optimizers.SGD(1.0), op=op), variables()
        wrapped.apply(gradients(0), ours, weight=0)
        expected = [start - g.numpy() for start, g in zip(START, gradients(0), strict=True)]
        assert_close(values(ours), expected)


class Recorder:
    """A user's compressor."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def compress(self, tensor):
        self.calls.append(("compress", int(tf.size(tensor))))
        return tf.cast(tensor, tf.float16), (tensor.dtype, "mine")

    def decompress(self, tensor, context):
        assert context[1] == "mine"
        self.calls.append(("decompress", int(tf.size(tensor))))
        return tf.cast(tensor, context[0])


def test_a_users_own_compressor_is_called_with_the_bucket() -> None:
    recorder, ours = Recorder(), variables()
    distributed(optimizers.SGD(1.0), compression=recorder).apply(gradients(0), ours)
    assert recorder.calls == [("compress", 9), ("decompress", 9)]
    rounded = [g.numpy().astype(np.float16).astype(np.float32) for g in gradients(0)]
    assert_close(values(ours), [v - g for v, g in zip(START, rounded, strict=True)])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"op": "adasum"}, ValueError, "op='adasum': expected 'weighted', 'average'"),
        ({"op": 1}, ValueError, "op=1: expected"),
        ({"backward_passes_per_step": 0}, ValueError, "backward_passes_per_step=0: expected >= 1"),
        ({"bucket_mb": 0}, ValueError, "bucket_mb=0: expected a positive size"),
        ({"compression": "fp8"}, ValueError, "compression='fp8'"),
        ({"strategy": "never"}, ValueError, "strategy='never': expected one of"),
        ({"compression": object()}, TypeError, "has no method compress"),
    ],
)
def test_an_option_that_is_not_valid_is_named(options, error, message: str) -> None:
    with pytest.raises(error, match=message):
        distributed(optimizers.SGD(), **options)


def test_what_is_no_optimizer_or_distributed_already_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a keras.optimizers.Optimizer"):
        distributed("adam")
    with pytest.raises(ValueError, match="distributed already"):
        distributed(distributed(optimizers.SGD()))


def test_the_learning_rate_is_that_of_the_optimizer_inside() -> None:
    wrapped, ours = distributed(optimizers.SGD(0.5)), variables()
    assert float(wrapped.learning_rate) == 0.5
    wrapped.learning_rate = 0.25
    assert float(wrapped.inner_optimizer.learning_rate) == 0.25
    wrapped.apply(gradients(0), ours)
    expected = [start - 0.25 * g.numpy() for start, g in zip(START, gradients(0), strict=True)]
    assert_close(values(ours), expected)


def test_apply_gradients_is_the_older_spelling() -> None:
    wrapped, ours = distributed(optimizers.SGD(1.0)), variables()
    steps = wrapped.apply_gradients(zip(gradients(0), ours, strict=True))
    assert int(steps) == 1
    assert_close(values(ours), [v - g.numpy() for v, g in zip(START, gradients(0), strict=True)])
