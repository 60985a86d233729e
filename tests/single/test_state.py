"""Which variable is of which kind, and the random generators of a rank."""

import keras
import numpy as np
import pytest

from app.state import (
    Kind,
    TrainState,
    declare,
    reseed,
    state_variables,
)


def kinds(classifier) -> dict[Kind, set[str]]:
    found: dict[Kind, set[str]] = {kind: set() for kind in Kind}
    for entry in state_variables(classifier, classifier.optimizer):
        found[entry.kind].add(entry.path)
    return found


def test_every_variable_has_the_kind_that_it_should(make_classifier) -> None:
    classifier = make_classifier(
        keras.optimizers.SGD(0.1, momentum=0.9, name="sgd"), backward_passes_per_step=2
    )
    found = kinds(classifier)
    assert found[Kind.AVERAGED] == {"norm/moving_mean", "norm/moving_variance"}
    assert found[Kind.DERIVED] == {"dropout/seed_generator_state"}
    assert len(found[Kind.LOCAL]) == len(classifier.trainable_variables) + 2
    assert all("accumulated" in path for path in found[Kind.LOCAL])
    weights = {variable.path for variable in classifier.trainable_variables}
    slots = {variable.path for variable in classifier.optimizer.inner_optimizer.variables}
    assert weights | slots <= found[Kind.REPLICATED]
    assert any("momentum" in path for path in slots)


def test_the_pass_of_an_accumulated_step_is_the_same_on_all_ranks(make_classifier) -> None:
    classifier = make_classifier(backward_passes_per_step=2)
    replicated = kinds(classifier)[Kind.REPLICATED]
    assert any(path.endswith("accumulated_passes") for path in replicated)


def test_whoever_makes_a_variable_says_of_what_kind_it_is(make_classifier) -> None:
    classifier = make_classifier(compression="fp16")
    classifier.optimizer.add_variable((2,), name="residual", kind=Kind.SUMMED)
    mine = declare(classifier.trainable_variables[0], Kind.AVERAGED)
    found = {e.path: e for e in state_variables(classifier, classifier.optimizer)}
    assert found[mine.path].kind is Kind.AVERAGED
    assert [e.kind for path, e in found.items() if path.endswith("/residual")] == [Kind.SUMMED]
    assert {path.rpartition("/")[2] for path, e in found.items() if e.optional} == {
        "fp16_scales",
        "sparse_fp16_scales",
    }


def test_the_loss_scale_is_replicated(make_classifier) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    replicated = kinds(make_classifier())[Kind.REPLICATED]
    assert any(path.endswith("dynamic_scale") for path in replicated)
    assert any(path.endswith("step_counter") for path in replicated)


def test_every_variable_is_listed_once(make_classifier) -> None:
    classifier = make_classifier(backward_passes_per_step=2)
    entries = state_variables(classifier, classifier.optimizer)
    variables = [*classifier.variables, *classifier.optimizer.variables]
    assert sorted(id(e.variable) for e in entries) == sorted(id(v) for v in variables)


def test_paths_are_the_same_for_a_second_classifier_of_the_process(make_classifier) -> None:
    first, second = make_classifier(), make_classifier()
    paths = [[e.path for e in state_variables(c, c.optimizer)] for c in (first, second)]
    assert paths[0] == paths[1]


def test_batch_normalization_inside_a_nested_model_is_found() -> None:
    inner = keras.Sequential(
        [keras.Input((2,)), keras.layers.BatchNormalization(name="deep_norm")], name="inner"
    )
    outer = keras.Sequential([keras.Input((2,)), inner], name="outer")
    averaged = {e.path for e in state_variables(outer) if e.kind is Kind.AVERAGED}
    assert {path.rpartition("/")[2] for path in averaged} == {"moving_mean", "moving_variance"}


def test_two_variables_of_one_name_are_refused() -> None:
    def dense() -> keras.layers.Layer:
        return keras.layers.Dense(2, name="same")

    a, b = keras.Input((2,)), keras.Input((2,))
    one = keras.Model(a, dense()(a), name="tower")
    two = keras.Model(b, dense()(b), name="tower")

    class Both(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.two = one, two

    with pytest.raises(ValueError, match="two variables are called 'same/kernel'"):
        state_variables(Both())


def seeds(classifier) -> np.ndarray:
    return np.concatenate(
        [e.variable.numpy() for e in state_variables(classifier) if e.kind is Kind.DERIVED]
    )


def test_random_generators_differ_by_seed_rank_and_step_and_come_again(make_classifier) -> None:
    classifier = make_classifier()
    streams = {}
    for place in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (1, 1, 0)]:
        reseed(classifier, *place)
        streams[place] = tuple(seeds(classifier).tolist())
    assert len(set(streams.values())) == len(streams)
    reseed(classifier, 0, 1, 0)
    assert tuple(seeds(classifier).tolist()) == streams[0, 1, 0]


def test_two_layers_with_random_generators_get_different_streams() -> None:
    from models.layers import Dropout

    layers = [keras.Input((2,)), Dropout(0.5, name="one"), Dropout(0.5, name="two")]
    model = keras.Sequential(layers)
    reseed(model, seed=0, rank=0, step=0)
    one, two = np.split(seeds(model), 2)
    assert (one != two).any()


def test_dropout_repeats_after_reseeding_with_the_same_place(make_classifier, batch) -> None:
    classifier = make_classifier()
    outputs = []
    for rank in (0, 1, 0):
        reseed(classifier, seed=3, rank=rank, step=2)
        outputs.append(classifier(batch[0], training=True).numpy())
    np.testing.assert_array_equal(outputs[0], outputs[2])
    assert (outputs[0] != outputs[1]).any()


def test_a_position_moves_a_state_to_where_another_is(make_classifier) -> None:
    classifier = make_classifier()
    state = TrainState(classifier, classifier.optimizer, seed=3, step=7, epoch=2, examples_seen=5)
    other = TrainState(classifier, classifier.optimizer, seed=0)
    other.move_to(state.position)
    assert (other.seed, other.step, other.epoch, other.examples_seen) == (3, 7, 2, 5)
