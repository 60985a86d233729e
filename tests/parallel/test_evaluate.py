"""Evaluation on several ranks equals that of one process: counts exactly, mistakes too."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.classifier import Classifier
from app.commands.calibrate_run import calibrate_run
from app.commands.evaluate_run import evaluate_run
from app.data.batches import Loaded
from app.distributed.world import World
from app.evaluation.evaluate import evaluate
from app.recipe import load
from app.train import train
from tests.parallel.runs import image_network, images, text_network, texts

SUMMED = ("confusion", "top5_hits", "bin_examples", "bin_hits")


@pytest.fixture
def directory(world, tmp_path):
    """The chief's temporary directory, on every rank."""
    return world.broadcast(tmp_path)


def part(split, number):
    """The first `number` examples."""
    lengths = None if split.lengths is None else split.lengths[:number]
    return Loaded(split.everything[:number], split.labels[:number], lengths)


def check_equals_one_process(world, network, split):
    classifier = Classifier(network)
    for variable in classifier.variables:
        variable.assign(world.broadcast(variable.numpy()))
    scores = evaluate(classifier, split, world, most_mistakes=9).first
    alone = evaluate(classifier, split, World(), most_mistakes=9).first
    for name in SUMMED:
        np.testing.assert_array_equal(getattr(scores, name), getattr(alone, name), err_msg=name)
    assert scores.examples == len(split)
    np.testing.assert_allclose(scores.bin_confidence, alone.bin_confidence, rtol=1e-6)
    assert scores.loss_sum == pytest.approx(alone.loss_sum, rel=1e-6)
    places = [(mistake.index, mistake.true, mistake.predicted) for mistake in alone.mistakes]
    assert [(one.index, one.true, one.predicted) for one in scores.mistakes] == places
    assert all(found == scores.mistakes for found in world.gather(scores.mistakes))
    return scores


@pytest.mark.parametrize("examples", [0, 1, 2, 126])
def test_ranks_count_images_as_one_process_does(world, examples):
    keras.utils.set_random_seed(5)
    split = part(images(), examples)
    scores = check_equals_one_process(world, image_network(), split)
    wrong = examples - np.trace(scores.confusion)
    assert len(scores.mistakes) == min(9, wrong)
    if examples == 126:
        assert wrong > 9  # or nothing was merged


@pytest.mark.parametrize("examples", [0, 1, 2, 126])
def test_ranks_count_texts_as_one_process_does(world, examples):
    keras.utils.set_random_seed(6)
    check_equals_one_process(world, text_network(), part(texts(), examples))


def test_equally_confident_mistakes_come_in_the_order_of_the_split_whatever_rank_made_them(world):
    network = image_network()
    for variable in network.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    split = images()
    scores = evaluate(Classifier(network), split, world, most_mistakes=100).first
    wrong = np.flatnonzero(split.labels != 0)  # of equal logits the first class is taken
    assert [mistake.index for mistake in scores.mistakes] == wrong[:100].tolist()
    assert {mistake.confidence for mistake in scores.mistakes} == {0.2}


def test_a_run_is_evaluated_alike_on_all_ranks_and_by_one_process(world, directory):
    keys = {"epochs": 2, "global_batch_size": 50, "run_dir": str(directory / "run")}
    metrics = train(load(None, keys), world=world)
    result = evaluate_run(directory / "run", {}, None, directory / "out", world)
    assert all(other == result for other in world.gather(result))
    assert result["accuracy"] == metrics["test_accuracy"]
    assert (directory / "out" / "evaluation.json").is_file()
    if world.is_chief:
        alone = evaluate_run(directory / "run", {}, None, directory / "alone", World())
        for name in ("confusion", "accuracy", "top5_accuracy", "classes", "fingerprint"):
            assert alone[name] == result[name], name
        assert alone["loss"] == pytest.approx(result["loss"], rel=1e-6)
        places = [row["where"] for row in alone["mistakes"]]
        assert places == [row["where"] for row in result["mistakes"]]
    world.barrier()
    check_calibrated(world, directory)


def check_calibrated(world, directory):
    """The run's temperature, coverage and unknown class are those that one process finds."""
    found = calibrate_run(directory / "run", world)
    assert all(other == found for other in world.gather(found))
    options = {"unknown_class": "3"}
    result = evaluate_run(directory / "run", {}, None, directory / "out", world, **options)
    assert all(other == result for other in world.gather(result))
    if world.is_chief:
        again = evaluate_run(directory / "run", {}, None, directory / "alone", World(), **options)
        assert again["confusion"] == result["confusion"]
        assert again["uncalibrated"] == pytest.approx(result["uncalibrated"], rel=1e-6)
        one, other = again["unknown_class"], result["unknown_class"]
        assert one.pop("class") == other.pop("class") == "3"
        assert one == pytest.approx(other, rel=1e-6)
        for one, other in zip(again["coverage"], result["coverage"], strict=True):
            assert one == pytest.approx(other, rel=1e-5)
        alone = calibrate_run(directory / "run", World())
        assert alone["temperatures"] == pytest.approx(found["temperatures"], rel=1e-6)
    world.barrier()
