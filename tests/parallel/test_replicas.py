"""What brings replicas together, and what notices when they part."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.distributed import callbacks, guard
from app.distributed.callbacks import CommitPoints
from app.distributed.guard import ReplicasDiverged, agree, compare
from app.distributed.optimizer import DistributedOptimizer
from app.distributed.replicas import broadcast_state, settle, sum_metrics
from app.state import Kind, state_variables
from tests.parallel.runs import HalfNow


def network():
    return keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(6, name="hidden"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dropout(0.5, name="dropout"),
            keras.layers.Dense(3, name="logits"),
        ]
    )


def built(world):
    """A model that starts from other random weights on each rank, and its optimizer."""
    keras.utils.set_random_seed(100 + world.rank)
    model = network()
    optimizer = DistributedOptimizer(keras.optimizers.Adam(1e-2), world=world)
    optimizer.build(model.trainable_variables)
    for variable in optimizer.variables:
        if keras.backend.is_float_dtype(variable.dtype):
            variable.assign(variable.value + float(world.rank))
    return model, optimizer


def values(model, optimizer, kind):
    return [e.variable.numpy() for e in state_variables(model, optimizer) if e.kind is kind]


def test_the_broadcast_makes_different_starts_identical_optimizer_included(world):
    model, optimizer = built(world)
    with pytest.raises(ReplicasDiverged):
        compare(world, model, optimizer, step=0)
    broadcast_state(world, model, optimizer, seed=3, step=0)
    compare(world, model, optimizer, step=0)
    chief = world.broadcast(values(model, optimizer, Kind.REPLICATED))
    mine = values(model, optimizer, Kind.REPLICATED)
    assert all(np.array_equal(a, b) for a, b in zip(chief, mine, strict=True))


def test_generators_of_dropout_differ_between_ranks_after_the_broadcast(world):
    model, optimizer = built(world)
    broadcast_state(world, model, optimizer, seed=3, step=0)
    states = world.gather(values(model, optimizer, Kind.DERIVED)[0].tolist())
    assert len({tuple(state) for state in states}) == world.size
    masks = world.gather(model.layers[2](tf.ones((1, 64)), training=True).numpy().tolist())
    assert len({str(mask) for mask in masks}) == world.size


def test_moving_statistics_are_averaged_by_examples_and_then_equal(world):
    model, _ = built(world)
    norm = model.layers[1]
    norm.moving_mean.assign(np.full(6, world.rank, np.float32))
    norm.moving_variance.assign(np.full(6, 1.0 + 2 * world.rank, np.float32))
    examples = np.array([3, 1, 5, 2][: world.size])
    settle(world, model, None, int(examples[world.rank]))
    mean = np.average(np.arange(world.size), weights=examples)
    np.testing.assert_allclose(norm.moving_mean.numpy(), mean, rtol=1e-6)
    np.testing.assert_allclose(norm.moving_variance.numpy(), 1 + 2 * mean, rtol=1e-6)
    rows = world.gather(norm.moving_mean.numpy().tolist())
    assert all(row == rows[0] for row in rows)


def test_statistics_of_a_rank_without_an_example_do_not_count(world):
    model, _ = built(world)
    norm, last = model.layers[1], world.size - 1
    norm.moving_mean.assign(np.full(6, np.nan if world.rank == last else 2.5, np.float32))
    settle(world, model, None, 0)  # no rank has any: all is left as it is
    assert np.isnan(norm.moving_mean.numpy()).all() == (world.rank == last)
    settle(world, model, None, 0 if world.rank == last else 7)
    np.testing.assert_array_equal(norm.moving_mean.numpy(), 2.5)


def test_what_ranks_owe_is_dealt_evenly_and_nothing_of_it_is_lost(world):
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(3, name="only")])
    reducer = HalfNow()
    optimizer = DistributedOptimizer(keras.optimizers.SGD(1.0), compression=reducer, world=world)
    optimizer.build(model.trainable_variables)
    start = [v.numpy() for v in model.trainable_variables]
    mine = [tf.fill(v.shape, float(2**world.rank)) for v in model.trainable_variables]
    optimizer.apply(mine, model.trainable_variables)
    assert len({float(o) for o in world.gather(reducer.owed[0].numpy()[0, 0])}) == world.size
    settle(world, model, optimizer, examples=1)
    total = (2**world.size - 1) / world.size  # the mean of all ranks' gradients
    assert [e.kind for e in state_variables(model, optimizer)].count(Kind.SUMMED) == 2
    for variable, before, owed in zip(model.trainable_variables, start, reducer.owed, strict=True):
        np.testing.assert_allclose(variable.numpy(), before - total / 2, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(owed.numpy(), total / 2 / world.size, rtol=1e-6, atol=1e-6)
    assert len(set(world.gather(reducer.owed[0].numpy().tobytes()))) == 1


def test_settling_averages_statistics_and_finishes_pending_passes(world):
    model, _ = built(world)
    optimizer = DistributedOptimizer(
        keras.optimizers.SGD(1.0), world=world, backward_passes_per_step=2
    )
    optimizer.build(model.trainable_variables)
    broadcast_state(world, model, optimizer, seed=0, step=0)
    model.layers[1].moving_mean.assign(np.full(6, world.rank, np.float32))
    mine = [tf.fill(v.shape, float(world.rank)) for v in model.trainable_variables]
    optimizer.apply(mine, model.trainable_variables, weight=1)
    settle(world, model, optimizer, examples=2)
    mean = (world.size - 1) / 2
    np.testing.assert_allclose(model.layers[1].moving_mean.numpy(), mean, rtol=1e-6)
    assert int(optimizer.iterations) == 1
    assert all(not value.any() for value in values(model, optimizer, Kind.LOCAL))
    compare(world, model, optimizer, step=1)


def test_metrics_are_those_of_all_examples_of_uneven_ranks(world):
    metric = keras.metrics.Mean(name="loss")
    for _ in range(world.rank + 1):
        metric.update_state(float(world.rank))
    ranks = np.arange(world.size)
    expected = (ranks * (ranks + 1)).sum() / (ranks + 1).sum()
    assert sum_metrics(world, [metric])["loss"] == pytest.approx(expected)
    assert float(metric.result()) == world.rank  # the local state is kept


def test_one_flipped_bit_is_found_and_named_with_its_rank(world):
    model, optimizer = built(world)
    broadcast_state(world, model, optimizer, seed=0, step=0)
    last = world.size - 1
    if world.rank == last:
        bits = model.layers[-1].kernel.numpy()
        bits.view(np.uint32)[2, 1] ^= 1
        model.layers[-1].kernel.assign(bits)
    with pytest.raises(ReplicasDiverged) as caught:
        compare(world, model, optimizer, step=41)
    message = str(caught.value)
    assert "step 41" in message
    assert "'logits/kernel'" in message or "/logits/kernel'" in message
    assert f"{sorted([list(range(last)), [last]])}" in message


def test_moving_statistics_may_differ(world):
    model, optimizer = built(world)
    broadcast_state(world, model, optimizer, seed=0, step=0)
    model.layers[1].moving_mean.assign(np.full(6, world.rank, np.float32))
    compare(world, model, optimizer, step=0)


def drifted(world, ranks):
    """A model and its optimizer in lockstep but for two variables on these ranks."""
    model, optimizer = built(world)
    broadcast_state(world, model, optimizer, seed=0, step=0)
    if world.rank in ranks:
        last = model.layers[-1]
        last.kernel.assign(last.kernel + 1 + world.rank)  # on each its own
        last.bias.assign(last.bias + np.nan)
    return model, optimizer


def test_a_minority_gets_the_values_of_the_majority(world, caplog):
    if world.size == 2:
        pytest.skip("two ranks have no majority")
    minority = list(range((world.size - 1) // 2))  # the chief among them
    model, optimizer = drifted(world, minority)
    before = world.gather(values(model, optimizer, Kind.REPLICATED))
    (text,) = compare(world, model, optimizer, 7, "repair")
    assert text.startswith(f"step 7: rank(s) {minority} had left lockstep in 2 of ")
    assert (
        f"logits/kernel', and got the values of the majority, rank(s) {[len(minority)]}"[:-1]
        in text
    )
    # Keras numbers models by process, and ranks may have made more of them.
    assert len({re.sub(r"sequential_?\d*", "", one) for one in world.gather(text)}) == 1
    assert (text in caplog.text) == world.is_chief
    mine = values(model, optimizer, Kind.REPLICATED)
    assert [v.tobytes() for v in mine] == [v.tobytes() for v in before[-1]]
    assert compare(world, model, optimizer, 8, "repair") == []


def test_half_of_the_ranks_are_no_majority(world):
    drifting = list(range(1, 1 + world.size // 2)) if world.size % 2 == 0 else [1, 2]
    model, optimizer = drifted(world, drifting)  # with 3 ranks: each on its own
    kernel = model.layers[-1].kernel.numpy()
    with pytest.raises(ReplicasDiverged, match=r"step 7: .*2 of .* variables differ"):
        compare(world, model, optimizer, 7, "repair")
    np.testing.assert_array_equal(model.layers[-1].kernel.numpy(), kernel)


def test_in_fit_a_rank_that_drifts_is_repaired_and_goes_on(world):
    class Drift(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 3 and world.rank == world.size - 1:
                self.model.layers[-1].bias.assign(self.model.layers[-1].bias + 1e-6)

    optimizer = DistributedOptimizer(keras.optimizers.SGD(0.1))
    guards = CommitPoints(compare_every_steps=5, on_drift="repair"), Drift()
    if world.size == 2:
        with pytest.raises(ReplicasDiverged, match="step 5: .*bias"):
            fit_with(world, optimizer, *guards)
    else:
        assert fit_with(world, optimizer, *guards).batches == 24


def test_ranks_with_other_numbers_of_variables_are_not_repaired(world):
    model, optimizer = drifted(world, [])
    if world.rank == 1:
        optimizer = None
    with pytest.raises(ReplicasDiverged, match="step 7: ranks hold different numbers"):
        compare(world, model, optimizer, 7, "repair")


def test_what_a_checkpoint_holds_of_statistics_is_compared_at_commit_points(world, monkeypatch):
    model, optimizer = drifted(world, [])
    assert agree(world, model, optimizer, 1.0, seed=0, step=1) == []
    monkeypatch.setattr(guard, "settle", lambda *_: None)
    model.layers[1].moving_mean.assign(np.full(6, world.rank, np.float32))
    with pytest.raises(ReplicasDiverged, match="norm/moving_mean"):
        agree(world, model, optimizer, 1.0, seed=0, step=2)


class CountBatches(keras.callbacks.Callback):
    batches = 0

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1


def fit_with(world, optimizer, *guards):
    """fit() on other data on each rank, from equal weights; returns the batches it took."""
    keras.utils.set_random_seed(5)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3, name="logits")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=False)
    rng = np.random.default_rng(world.rank)
    inputs, labels = rng.normal(size=(96, 4)).astype("float32"), rng.integers(0, 3, 96)
    counter = CountBatches()
    try:
        model.fit(inputs, labels, batch_size=8, epochs=2, verbose=0, callbacks=[counter, *guards])
    finally:
        world.barrier()
    return counter


def test_horovods_stock_keras_optimizer_is_caught_within_k_steps(world):
    import horovod.tensorflow.keras as stock

    guard = CommitPoints(compare_every_steps=5)
    counter = None
    with pytest.raises(ReplicasDiverged, match="step 5: .*logits"):
        counter = fit_with(world, stock.DistributedOptimizer(keras.optimizers.SGD(0.1)), guard)
    assert counter is None


def test_our_optimizer_passes_the_guard_to_the_end(world):
    optimizer = DistributedOptimizer(keras.optimizers.SGD(0.1))
    counter = fit_with(world, optimizer, CommitPoints(compare_every_steps=5))
    assert counter.batches == 24


def test_the_guard_counts_steps_and_not_the_passes_that_one_takes(world, monkeypatch):
    optimizer = DistributedOptimizer(keras.optimizers.SGD(0.1), backward_passes_per_step=2)
    agreed_at = []

    def compare_and_note(world, model, optimizer, step, *options):
        agreed_at.append(step)
        return compare(world, model, optimizer, step, *options)

    for module in (callbacks, guard):
        monkeypatch.setattr(module, "compare", compare_and_note)
    counter = fit_with(world, optimizer, CommitPoints(3))
    assert counter.batches == 24
    assert agreed_at == [3, 6, 6, 9, 12, 12, 12]  # and at the end of each epoch and of training


def test_in_fit_no_callback_behind_the_guard_saves_what_ranks_do_not_share(world):
    saved = []

    class DriftAndSave(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 3 and world.rank == 1:
                self.model.layers[-1].bias.assign(self.model.layers[-1].bias + 1e-6)

        def on_epoch_end(self, epoch, logs=None):
            saved.append(epoch)

    optimizer = DistributedOptimizer(keras.optimizers.SGD(0.1))
    with pytest.raises(ReplicasDiverged, match="bias"):
        fit_with(world, optimizer, CommitPoints(compare_every_steps=1000), DriftAndSave())
    assert not saved
