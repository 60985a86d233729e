"""Augmentation of training images, a batch at a time, in graph ops on the CPU.

What happens to an example depends on its position in the epoch's global order (`random_keys`), not
on the rank or the batch that it is in; only mixup and CutMix look at another example of the batch.

Images are uint8 (n, height, width, channels), static but for n, which may be 0. The functions move
whole images and rows where they can: a choice per pixel (`tf.where`, `tf.gather`) is ten times
slower.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from app.data.augment import rand
from app.data.augment.random_keys import uniform
from app.data.augment.trivial import OPERATIONS, STRENGTHS, in_groups, trivial_augment

# Random erasing, as in its paper: the shares of the image's area, and height / width.
ERASED_SHARE = (0.02, 1 / 3)
ERASED_ASPECT = (0.3, 3.3)


class Augmentation(Protocol):
    """What a user asks for; `crop_padding` in pixels, `randaugment_strength` up to
    `rand.STRONGEST`, `random_erasing` a probability, `mixup` and `cutmix` the alpha of
    Beta(alpha, alpha); 0 and "none" are off."""

    @property
    def flip(self) -> Literal["none", "horizontal", "both", "alternating"]: ...
    @property
    def crop_padding(self) -> int: ...
    @property
    def auto_augment(self) -> Literal["none", "trivialaugment", "randaugment"]: ...
    @property
    def randaugment_operations(self) -> int: ...
    @property
    def randaugment_strength(self) -> int: ...
    @property
    def random_erasing(self) -> float: ...
    @property
    def mixup(self) -> float: ...
    @property
    def cutmix(self) -> float: ...


class Draws(NamedTuple):
    """An example's random numbers, uniform in [0, 1), float32 (n,) each.

    Add new ones at the end: then those that there are keep their values from one version to the
    next, and whatever is on or off.
    """

    flip_x: tf.Tensor
    flip_y: tf.Tensor
    crop_y: tf.Tensor
    crop_x: tf.Tensor
    operation: tf.Tensor
    strength: tf.Tensor
    sign: tf.Tensor
    erase: tf.Tensor
    erase_share: tf.Tensor
    erase_aspect: tf.Tensor
    erase_y: tf.Tensor
    erase_x: tf.Tensor
    mixup_or_cutmix: tf.Tensor
    weight: tf.Tensor
    cutmix_y: tf.Tensor
    cutmix_x: tf.Tensor


class Augment:
    """All that `wanted` asks for, in this order: flip, crop, TrivialAugment or RandAugment, random
    erasing, and then mixup or CutMix.

    With both mixup and CutMix on, each example has one of the two, with probability 1/2 each. The
    partner of an example is the next one of the rank's own batch, so it is another one at another
    world size; the weights and boxes are not.

    Args:
        wanted: what to do.
        classes: how many classes there are; a list: those of each head, of several labels.
        seed: of the run.
    """

    def __init__(self, wanted: Augmentation, classes: int | Sequence[int], seed: int):
        self.wanted = wanted
        self.classes = classes
        self.seed = seed

    @property
    def soft(self) -> bool:
        """Whether the targets are soft: shares of two classes, by mixup or CutMix."""
        return self.wanted.mixup > 0 or self.wanted.cutmix > 0

    def __call__(
        self,
        images: tf.Tensor,
        labels: tf.Tensor,
        positions: tf.Tensor,
        epoch: int | tf.Tensor = 0,
        examples: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, Any]:
        """Augment a batch.

        Args:
            images: uint8 (n, height, width, channels).
            labels: class ids, int64 (n,), or (n, heads) with -1 for a missing one.
            positions: the examples' places in the epoch's global order, int64 (n,).
            epoch: its number; each epoch augments anew.
            examples: which ones they are, int64 (n,); for alternating flips.

        Returns:
            uint8 images of the same shape, and float32 (n, classes) targets that sum to 1 if
            `soft`, else None. Of several labels a tuple, and a side of a blend whose label is
            missing adds nothing to its target.

        Raises:
            ValueError: TrivialAugment or RandAugment is on, and the images have neither 1 nor 3
                channels.
        """
        wanted = self.wanted
        numbers = uniform(self.seed, epoch, positions, len(Draws._fields))
        draws = Draws(*tf.unstack(numbers, axis=1))
        if wanted.flip == "alternating":
            images = flip(images, alternates(self.seed, epoch, examples))
        elif wanted.flip != "none":
            images = flip(images, draws.flip_x < 0.5)
        if wanted.flip == "both":
            images = flip(images, draws.flip_y < 0.5, vertical=True)
        if wanted.crop_padding:
            offsets = 2 * wanted.crop_padding + 1
            y, x = _whole(draws.crop_y, offsets), _whole(draws.crop_x, offsets)
            images = crop(images, y, x, wanted.crop_padding)
        if wanted.auto_augment == "trivialaugment":
            operations = _whole(draws.operation, len(OPERATIONS))
            strengths = _whole(draws.strength, STRENGTHS)
            images = trivial_augment(images, operations, strengths, draws.sign < 0.5)
        elif wanted.auto_augment == "randaugment":
            drawn = rand.draw(self.seed, epoch, positions, wanted.randaugment_operations)
            images = rand.rand_augment(images, *drawn, wanted.randaugment_strength)
        if wanted.random_erasing:
            boxes = erasing_boxes(draws, *images.shape[1:3])
            erased = tf.cast(draws.erase < wanted.random_erasing, tf.int32)
            images = erase(images, boxes * erased[:, None])
        if self.soft:
            return self._mixed(images, labels, draws)
        return images, None

    def _mixed(self, images: tf.Tensor, labels: tf.Tensor, draws: Draws) -> tuple[tf.Tensor, Any]:
        wanted = self.wanted
        if wanted.mixup and wanted.cutmix:
            cut = draws.mixup_or_cutmix < 0.5
        else:
            cut = tf.fill(tf.shape(labels)[:1], wanted.cutmix > 0)
        partners, own = tf.roll(images, -1, axis=0), tf.ones_like(draws.weight)
        if wanted.mixup:
            weights = beta_quantile(draws.weight, wanted.mixup)
            own = tf.where(cut, 1.0, tf.maximum(weights, 1 - weights))
            images = mixup(images, partners, own)
        if wanted.cutmix:
            weights = beta_quantile(draws.weight, wanted.cutmix)
            boxes = cutmix_boxes(weights, draws.cutmix_y, draws.cutmix_x, *images.shape[1:3])
            images, left = cutmix(images, partners, boxes * tf.cast(cut, tf.int32)[:, None])
            own *= left
        others = tf.roll(labels, -1, axis=0)
        if isinstance(self.classes, int):
            return images, soft_targets(labels, others, own, self.classes)
        return images, tuple(
            soft_targets(labels[:, head], others[:, head], own, classes)
            for head, classes in enumerate(self.classes)
        )


def alternates(seed: int, epoch: int | tf.Tensor, examples: tf.Tensor) -> tf.Tensor:
    """Which examples are mirrored in this epoch, bool (n,): a random half of all in the first, and
    in every other epoch those that were not in the one before (Jordan 2024, arXiv 2404.00498)."""
    first = uniform(seed, 0, examples, 1)[:, 0] < 0.5
    return tf.math.logical_xor(first, tf.cast(epoch, tf.int64) % 2 == 1)


def flip(images: tf.Tensor, chosen: tf.Tensor, vertical: bool = False) -> tf.Tensor:
    """Mirror the chosen images, left to right or top to bottom; chosen: bool (n,)."""
    height, width, channels = images.shape[1:]
    at = tf.cast(tf.where(chosen)[:, 0], tf.int32)
    # Reversing the middle axis of three has the fastest kernel, for 3 channels above all.
    shape = [-1, height, width * channels] if vertical else [-1, width, channels]
    mirrored = tf.reverse(tf.reshape(tf.gather(images, at), shape), [1])
    return _replaced(images, at, tf.reshape(mirrored, [-1, height, width, channels]))


def crop(images: tf.Tensor, offsets_y: tf.Tensor, offsets_x: tf.Tensor, padding: int) -> tf.Tensor:
    """Pad with black on all sides, and cut back to the old size (He et al. 2015, arXiv 1512.03385).

    offsets_y, offsets_x: the cut's first row and column in the padded image, int32 (n,), from 0 to
    2 * padding; `padding` itself returns the image.
    """
    height, width, channels = images.shape[1:]
    row_bytes = width * channels
    sides = [[0, 0], [padding, padding], [padding * channels, padding * channels]]
    padded = tf.pad(tf.reshape(images, [-1, height, row_bytes]), sides)
    padded_height = height + 2 * padding
    first = tf.range(tf.shape(images)[0]) * padded_height + offsets_y
    rows = tf.reshape(padded, [-1, padded.shape[2]])
    rows = tf.gather(rows, first[:, None] + tf.range(height))

    # One slice cuts all images of the same column: whole rows again, and no index per pixel.
    def columns_from(start: int) -> Any:
        return lambda part, _: part[:, :, start * channels : start * channels + row_bytes]

    cuts = [columns_from(start) for start in range(2 * padding + 1)]
    return tf.reshape(in_groups(rows, offsets_x, cuts), [-1, height, width, channels])


def erase(images: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
    """Make boxes black (random erasing, Zhong et al. 2017, arXiv 1708.04896: its variant RE-0).

    boxes: int32 (n, 4) of top, left, bottom, right, the last two excluded; an empty one erases
    nothing.
    """
    return _paste(images, tf.zeros_like(images), boxes)


def erasing_boxes(draws: Draws, height: int, width: int) -> tf.Tensor:
    """Random boxes for `erase`, int32 (n, 4): area uniform, aspect uniform in its logarithm.

    As in torchvision, so that tall and wide boxes are as likely. A side longer than the image's is
    cut to it, where the paper would draw again; it is at least 1 pixel.
    """
    low, high = ERASED_SHARE
    area = (low + (high - low) * draws.erase_share) * height * width
    low, high = np.log(ERASED_ASPECT)
    # In float64: the last bit of exp may differ between the places of a tensor.
    exponent = tf.cast(low + (high - low) * draws.erase_aspect, tf.float64)
    aspect = tf.cast(tf.exp(exponent), tf.float32)
    tall = tf.clip_by_value(tf.round(tf.sqrt(area * aspect)), 1, height)
    wide = tf.clip_by_value(tf.round(tf.sqrt(area / aspect)), 1, width)
    top = tf.floor(draws.erase_y * (height - tall + 1))
    left = tf.floor(draws.erase_x * (width - wide + 1))
    return tf.cast(tf.stack([top, left, top + tall, left + wide], axis=1), tf.int32)


def mixup(images: tf.Tensor, partners: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """weight * image + (1 - weight) * partner, rounded (Zhang et al. 2017, arXiv 1710.09412).

    weights: of the image, float32 (n,). `Augment` takes the larger of w and 1 - w. Over all pairs
    that is the same mixture, and the example's own label stays the one with most weight, so that
    accuracy keeps its meaning.
    """
    own = weights[:, None, None, None]
    mixed = own * tf.cast(images, tf.float32) + (1 - own) * tf.cast(partners, tf.float32)
    return tf.cast(mixed + 0.5, tf.uint8)


def cutmix(images: tf.Tensor, partners: tf.Tensor, boxes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Paste boxes of the partners (CutMix, Yun et al. 2019, arXiv 1905.04899).

    boxes as for `erase`. Returns the images, and the share of its pixels that each has kept,
    float32 (n,).
    """
    top, left, bottom, right = tf.unstack(boxes, axis=1)
    pasted = tf.cast((bottom - top) * (right - left), tf.float32)
    return _paste(images, partners, boxes), 1 - pasted / (images.shape[1] * images.shape[2])


def cutmix_boxes(
    weights: tf.Tensor, centre_y: tf.Tensor, centre_x: tf.Tensor, height: int, width: int
) -> tf.Tensor:
    """Boxes for `cutmix`, int32 (n, 4): 1 - weight of the area about a centre, cut at the border.

    weights, and the centre as shares of the image: float32 (n,). As the paper has it, so the
    partner may get the larger part, and its label the larger weight.
    """
    side = tf.sqrt(1 - weights)
    edges = []
    for centre, length in ((centre_y, height), (centre_x, width)):
        middle, half = _whole(centre, length), tf.cast(side * length, tf.int32) // 2
        edges.append((tf.maximum(middle - half, 0), tf.minimum(middle + half, length)))
    (top, bottom), (left, right) = edges
    return tf.stack([top, left, bottom, right], axis=1)


def soft_targets(
    labels: tf.Tensor, partner_labels: tf.Tensor, weights: tf.Tensor, classes: int
) -> tf.Tensor:
    """weight * one-hot(label) + (1 - weight) * one-hot(partner's label), float32 (n, classes)."""
    own, other = (tf.one_hot(some, classes) for some in (labels, partner_labels))
    return weights[:, None] * own + (1 - weights[:, None]) * other


def beta_quantile(shares: tf.Tensor, alpha: float) -> tf.Tensor:
    """Quantiles of Beta(alpha, alpha): of uniform numbers they are a sample of it.

    shares: float32 (n,) in [0, 1]. From a table of 4096 points, linear between them.
    """
    from scipy.special import betaincinv  # takes a while to import

    steps = 4095
    table = tf.constant(betaincinv(alpha, alpha, np.linspace(0, 1, steps + 1)), tf.float32)
    lower = tf.minimum(_whole(shares, steps), steps - 1)
    low, high = tf.gather(table, lower), tf.gather(table, lower + 1)
    return low + (high - low) * (shares * steps - tf.cast(lower, tf.float32))


def _whole(shares: tf.Tensor, count: int) -> tf.Tensor:
    """Uniform numbers in [0, 1) as whole ones in [0, count), int32."""
    return tf.cast(shares * count, tf.int32)


def _paste(images: tf.Tensor, others: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
    """`others` inside the boxes; only the rows that a box crosses are looked at."""
    height, width, channels = images.shape[1:]
    top, left, bottom, right = (edge[:, None] for edge in tf.unstack(boxes, axis=1))
    row, column = tf.range(height), tf.range(width * channels) // channels
    at = tf.where(tf.reshape((row >= top) & (row < bottom), [-1]))[:, 0]
    at = tf.cast(at, tf.int32)
    inside = tf.gather((column >= left) & (column < right), at // height)
    rows, other_rows = (tf.reshape(some, [-1, width * channels]) for some in (images, others))
    pasted = tf.where(inside, tf.gather(other_rows, at), tf.gather(rows, at))
    return tf.reshape(_replaced(rows, at, pasted), [-1, height, width, channels])


def _replaced(rows: tf.Tensor, at: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
    """`rows`, with `new` at the rows `at`, int32."""
    # Where an index comes twice, the later one stands (documented). tf.tensor_scatter_nd_update is
    # two times slower.
    return tf.dynamic_stitch([tf.range(tf.shape(rows)[0]), at], [rows, new])
