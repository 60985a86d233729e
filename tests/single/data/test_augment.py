"""Augmentation: each function against NumPy, image by image, and the whole by what it promises."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from app.data.augment import augment
from app.data.augment.augment import Augment, Draws
from app.data.augment.random_keys import uniform


@dataclass(frozen=True)
class Wanted:
    flip: Literal["none", "horizontal", "both", "alternating"] = "none"
    crop_padding: int = 0
    auto_augment: Literal["none", "trivialaugment", "randaugment"] = "none"
    random_erasing: float = 0
    mixup: float = 0
    cutmix: float = 0
    randaugment_operations: int = 2
    randaugment_strength: int = 9


EXAMPLES, CLASSES = 40, 5
ALONE = {
    "flip": Wanted(flip="both"),
    "crop": Wanted(crop_padding=3),
    "trivial": Wanted(auto_augment="trivialaugment"),
    "rand": Wanted(auto_augment="randaugment"),
    "erasing": Wanted(random_erasing=0.5),
}
UNMIXED = Wanted("both", 3, "trivialaugment", 0.5)
ALL = Wanted("both", 3, "trivialaugment", 0.5, mixup=0.4, cutmix=1.0)


def pictures(channels: int = 3, height: int = 10, width: int = 7, count: int = EXAMPLES):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)


def batch(rows, channels: int = 3):
    """Images, labels and positions of some of the examples, in this order."""
    rows = np.asarray(rows, np.int64)
    return tf.constant(pictures(channels)[rows]), tf.constant(rows % CLASSES), tf.constant(rows)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("vertical", [False, True])
def test_flip_mirrors_the_chosen_images_only(vertical: bool, channels: int) -> None:
    images = pictures(channels)
    chosen = np.arange(EXAMPLES) % 3 == 1
    expected = [
        (image[::-1] if vertical else image[:, ::-1]) if mirror else image
        for image, mirror in zip(images, chosen, strict=True)
    ]
    np.testing.assert_array_equal(augment.flip(tf.constant(images), chosen, vertical), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_crop_cuts_every_offset_from_the_padded_image(channels: int) -> None:
    padding = 3
    y, x = (side.ravel() for side in np.mgrid[0:7, 0:7])
    images = pictures(channels, count=49)
    padded = np.pad(images, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    expected = [padded[i, y[i] : y[i] + 10, x[i] : x[i] + 7] for i in range(49)]
    ours = augment.crop(
        tf.constant(images), tf.constant(y, tf.int32), tf.constant(x, tf.int32), padding
    )
    np.testing.assert_array_equal(ours, expected)


BOXES = np.array([[0, 0, 10, 7], [2, 3, 5, 4], [0, 0, 0, 0], [9, 6, 10, 7], [1, 2, 8, 2]], np.int32)


@pytest.mark.parametrize("channels", [1, 3])
def test_erase_blackens_the_boxes_only(channels: int) -> None:
    images = pictures(channels, count=len(BOXES))
    expected = images.copy()
    for image, (top, left, bottom, right) in zip(expected, BOXES, strict=True):
        image[top:bottom, left:right] = 0
    np.testing.assert_array_equal(augment.erase(tf.constant(images), BOXES), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_cutmix_pastes_the_boxes_and_counts_the_pixels_left(channels: int) -> None:
    images = pictures(channels, count=len(BOXES))
    partners = 255 - images
    expected, left_share = images.copy(), []
    for image, partner, (top, left, bottom, right) in zip(expected, partners, BOXES, strict=True):
        image[top:bottom, left:right] = partner[top:bottom, left:right]
        left_share.append(1 - (bottom - top) * (right - left) / 70)
    ours, left = augment.cutmix(tf.constant(images), tf.constant(partners), BOXES)
    np.testing.assert_array_equal(ours, expected)
    np.testing.assert_allclose(left, left_share, atol=1e-7)


def test_mixup_is_the_rounded_mean_of_two_images() -> None:
    images, partners = pictures(), pictures()[::-1]
    weights = np.linspace(0.5, 1, EXAMPLES, dtype=np.float32)
    own = weights[:, None, None, None]
    expected = np.float32(own * images + (1 - own) * partners + np.float32(0.5)).astype(np.uint8)
    ours = augment.mixup(tf.constant(images), tf.constant(partners), weights).numpy()
    np.testing.assert_array_equal(ours, expected)
    exact = own.astype(np.float64) * images + (1 - own.astype(np.float64)) * partners
    assert np.abs(ours - exact).max() < 0.5001
    np.testing.assert_array_equal(ours[-1], images[-1])


def test_soft_targets_are_shares_of_two_classes() -> None:
    targets = augment.soft_targets(
        tf.constant([0, 2]), tf.constant([1, 2]), tf.constant([0.7, 0.6]), 3
    )
    np.testing.assert_allclose(targets, [[0.7, 0.3, 0], [0, 0, 1]], atol=1e-7)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_quantiles_of_uniform_numbers_are_a_sample_of_beta(alpha: float) -> None:
    numbers = uniform(3, 0, tf.range(20_000, dtype=tf.int64), 1)[:, 0]
    sample = augment.beta_quantile(numbers, alpha).numpy()
    for point in np.linspace(0.01, 0.99, 99):  # nearer to 1 a float32 has too few digits
        expected = scipy.stats.beta.cdf(point, alpha, alpha)
        assert (sample < point).mean() == pytest.approx(
            expected, abs=0.0138
        )  # as Kolmogorov-Smirnov
    ends = augment.beta_quantile(tf.constant([0.0, 0.5, 1.0]), alpha)
    np.testing.assert_allclose(ends, [0, 0.5, 1], atol=2e-3)


def many_draws(count: int = 20_000) -> Draws:
    numbers = uniform(5, 0, tf.range(count, dtype=tf.int64), len(Draws._fields))
    return Draws(*tf.unstack(numbers, axis=1))


@pytest.mark.parametrize("size", [(32, 32), (20, 48), (3, 2)])
def test_erasing_boxes_lie_inside_and_have_the_shares_of_the_paper(size: tuple[int, int]) -> None:
    top, left, bottom, right = augment.erasing_boxes(many_draws(), *size).numpy().T
    assert top.min() == 0
    assert left.min() == 0
    assert bottom.max() == size[0]
    assert right.max() == size[1]
    assert (bottom > top).all()
    assert (right > left).all()
    if size == (32, 32):
        room = (bottom - top < 30) & (right - left < 30)
        height_share = top[room] / (32 - bottom + top)[room]
        width_share = left[room] / (32 - right + left)[room]
        assert abs(np.corrcoef(height_share, width_share)[0, 1]) < 0.05
        share = (bottom - top) * (right - left) / (32 * 32)
        assert share.min() > 0.01
        assert share.max() < 0.36
        assert share.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.01)
        assert ((bottom - top) > (right - left)).mean() == pytest.approx(0.5, abs=0.05)


def test_cutmix_boxes_are_those_of_the_paper_clipped_at_the_border() -> None:
    draws = many_draws(2000)
    weights = augment.beta_quantile(draws.weight, 1.0)
    ours = augment.cutmix_boxes(weights, draws.cutmix_y, draws.cutmix_x, 24, 40).numpy()
    columns = (column.numpy() for column in (weights, draws.cutmix_y, draws.cutmix_x))
    for (top, left, bottom, right), weight, y, x in zip(ours, *columns, strict=True):
        side = np.sqrt(np.float32(1) - weight)
        half_y, half_x = int(side * np.float32(24)) // 2, int(side * np.float32(40)) // 2
        y, x = int(y * 24), int(x * 40)
        assert [top, bottom] == [max(y - half_y, 0), min(y + half_y, 24)]
        assert [left, right] == [max(x - half_x, 0), min(x + half_x, 40)]


@pytest.mark.parametrize("wanted", [*ALONE.values(), UNMIXED], ids=[*ALONE, "all"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_example_gets_the_same_in_every_batch_and_call(wanted: Wanted, channels: int) -> None:
    ours = Augment(wanted, CLASSES, seed=1)
    whole, targets = ours(*batch(range(EXAMPLES), channels), 2)
    assert targets is None
    assert not ours.soft
    assert (whole.numpy() != pictures(channels)).any()
    for rows in (range(EXAMPLES), range(1, EXAMPLES, 3), [7], [30, 2, 11]):
        again, _ = Augment(wanted, CLASSES, seed=1)(*batch(rows, channels), 2)
        np.testing.assert_array_equal(again, whole.numpy()[list(rows)])


@pytest.mark.parametrize("wanted", [*ALONE.values(), ALL], ids=[*ALONE, "all"])
def test_epochs_and_seeds_differ(wanted: Wanted) -> None:
    outcomes = [
        Augment(wanted, CLASSES, seed)(*batch(range(EXAMPLES)), epoch)[0].numpy()
        for seed, epoch in ((1, 0), (1, 1), (2, 0))
    ]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (outcomes[one] != outcomes[other]).any(axis=(1, 2, 3)).sum() > EXAMPLES / 4


def test_what_is_on_does_not_change_the_others() -> None:
    """Each augmentation has draws of its own: flip and crop then, or with mixup after them."""
    images, labels, positions = batch(range(EXAMPLES))
    flipped, _ = Augment(Wanted(flip="horizontal"), CLASSES, 1)(images, labels, positions)
    both, _ = Augment(Wanted("horizontal", 3), CLASSES, 1)(images, labels, positions)
    cropped, _ = Augment(Wanted(crop_padding=3), CLASSES, 1)(flipped, labels, positions)
    np.testing.assert_array_equal(both, cropped)


def test_alternating_flips_take_turns() -> None:
    numbers = np.random.default_rng(2).integers(0, 256, (64, 3, 4, 1)).astype(np.uint8)
    wanted = Augment(Wanted(flip="alternating"), CLASSES, 1)
    labels, examples = tf.zeros(64, tf.int64), tf.constant(np.arange(64) * 7)
    places = tf.random.shuffle(tf.range(64, dtype=tf.int64))  # where they come does not matter

    def mirrored(epoch: int) -> np.ndarray:
        changed, _ = wanted(numbers, labels, places, tf.constant(epoch, tf.int64), examples)
        same = (changed.numpy() == numbers).all(axis=(1, 2, 3))
        np.testing.assert_array_equal(changed.numpy()[~same], numbers[~same][:, :, ::-1])
        return ~same

    first = mirrored(0)
    assert 20 < first.sum() < 44
    for epoch in (1, 2, 3):
        np.testing.assert_array_equal(mirrored(epoch), first ^ bool(epoch % 2))


def test_flips_come_half_of_the_time_and_erasing_as_often_as_asked() -> None:
    count = 2000
    images = tf.constant(
        np.tile(np.arange(1, 36, dtype=np.uint8).reshape(5, 7, 1), (count, 1, 1, 1))
    )
    labels = positions = tf.range(count, dtype=tf.int64)
    flipped, _ = Augment(Wanted(flip="both"), CLASSES, 1)(images, labels, positions)
    corners = flipped.numpy()[:, [0, 0, 4, 4], [0, 6, 0, 6], 0][:, 0]
    _, counts = np.unique(corners, return_counts=True)
    assert len(counts) == 4
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    erased, _ = Augment(Wanted(random_erasing=0.25), CLASSES, 1)(images, labels, positions)
    share = (erased.numpy() == 0).any(axis=(1, 2, 3)).mean()
    assert share == pytest.approx(0.25, abs=0.04)


def test_every_trivialaugment_operation_comes_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        augment, "trivial_augment", lambda images, *given: seen.append(given) or images
    )
    count = 14_000
    images = tf.zeros([count, 1, 1, 1], tf.uint8)
    labels = positions = tf.range(count, dtype=tf.int64)
    Augment(Wanted(auto_augment="trivialaugment"), CLASSES, 1)(images, labels, positions)
    ((operations, strengths, negative),) = seen
    for drawn, kinds in ((operations, 14), (strengths, 31), (tf.cast(negative, tf.int32), 2)):
        counts = np.bincount(drawn.numpy(), minlength=kinds)
        assert len(counts) == kinds
        assert scipy.stats.chisquare(counts).pvalue > 1e-3


def mixed_pairs(wanted: Wanted, count: int = 400):
    """Targets and the share of white left, of images white and black by turns, of two classes."""
    images = np.zeros((count, 10, 10, 1), np.uint8)
    images[::2] = 255
    labels = tf.constant(np.arange(count) % 2)
    positions = tf.range(count, dtype=tf.int64)
    ours = Augment(wanted, 2, 1)
    assert ours.soft
    mixed, targets = ours(tf.constant(images), labels, positions)
    return mixed.numpy(), targets.numpy(), labels.numpy()


@pytest.mark.parametrize(
    "wanted", [Wanted(mixup=0.5), Wanted(cutmix=1.0), Wanted(mixup=0.5, cutmix=1.0)]
)
def test_targets_are_the_shares_of_the_two_images_and_sum_to_1(wanted: Wanted) -> None:
    mixed, targets, _ = mixed_pairs(wanted)
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
    assert targets.min() >= 0
    white = mixed.mean(axis=(1, 2, 3)) / 255
    np.testing.assert_allclose(targets[:, 0], white, atol=0.5 / 255 + 1e-6)


def test_mixup_leaves_the_own_label_dominant() -> None:
    _, targets, labels = mixed_pairs(Wanted(mixup=0.5))
    assert (targets[np.arange(len(labels)), labels] >= 0.5).all()
    assert targets.max(axis=1).min() < 0.6


def test_with_mixup_and_cutmix_half_of_the_examples_have_each() -> None:
    mixed, _, _ = mixed_pairs(Wanted(mixup=5.0, cutmix=1.0))
    blends = ((mixed > 0) & (mixed < 255)).any(axis=(1, 2, 3))
    assert blends.mean() == pytest.approx(0.5, abs=0.1)
    # A blend is grey all over: nothing was pasted over it.
    assert (mixed[blends].min(axis=(1, 2, 3)) == mixed[blends].max(axis=(1, 2, 3))).all()


def test_a_batch_of_one_is_its_own_partner() -> None:
    images, labels, positions = batch([3])
    mixed, targets = Augment(Wanted(mixup=0.4, cutmix=1.0), CLASSES, 1)(images, labels, positions)
    np.testing.assert_array_equal(mixed, images)
    np.testing.assert_allclose(targets, np.eye(CLASSES)[[3]], atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_dataset_map_with_batches_of_any_size_and_none_works(channels: int) -> None:
    sizes = [5, 0, 1, 8]
    rows = tf.RaggedTensor.from_row_lengths(tf.range(sum(sizes), dtype=tf.int64), sizes)
    images = tf.constant(pictures(channels))
    ours = Augment(ALL, CLASSES, seed=1)

    def fetch(own: tf.Tensor):
        return ours(tf.gather(images, own), own % CLASSES, own)

    dataset = tf.data.Dataset.from_tensor_slices(rows).map(fetch)
    assert dataset.element_spec[0].shape.as_list() == [None, 10, 7, channels]
    assert dataset.element_spec[1].shape.as_list() == [None, CLASSES]
    for size, (mixed, targets) in zip(sizes, dataset, strict=True):
        assert mixed.shape == (size, 10, 7, channels)
        assert mixed.dtype == tf.uint8
        assert targets.shape == (size, CLASSES)


def test_all_off_changes_nothing() -> None:
    images, labels, positions = batch(range(EXAMPLES))
    same, targets = Augment(Wanted(), CLASSES, 1)(images, labels, positions)
    np.testing.assert_array_equal(same, images)
    assert targets is None
