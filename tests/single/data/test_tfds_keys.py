"""Which features of a TensorFlow dataset are the input and the label."""

from typing import Any

import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from app.data.sources.tfds import find_keys
from app.errors import UserError
from tests.single.data.tfds_files import LABEL


class Info:
    """What `find_keys` reads of a `tfds.core.DatasetInfo`."""

    name = "some"

    def __init__(self, supervised_keys: tuple | None = None, **features: Any):
        self.features = tfds.features.FeaturesDict(features)
        self.supervised_keys = supervised_keys


IMAGE, TEXT = tfds.features.Image(), tfds.features.Text()


def test_an_image_comes_before_a_text() -> None:
    info = Info(caption=TEXT, photo=IMAGE, kind=LABEL)
    assert find_keys(info, None, None) == ("photo", ("kind",))


def test_supervised_keys_choose_and_flags_choose_before_them() -> None:
    info = Info(("b", "y"), a=TEXT, b=TEXT, x=LABEL, y=LABEL)
    assert find_keys(info, None, None) == ("b", ("y",))
    assert find_keys(info, "a", "x") == ("a", ("x",))
    assert find_keys(info, "a", None) == ("a", ("y",))


def test_supervised_keys_that_are_no_image_text_or_label_are_ignored() -> None:
    number = tfds.features.Scalar(dtype=tf.float32)
    info = Info(("image", "price"), image=IMAGE, price=number, label=LABEL)
    assert find_keys(info, None, None) == ("image", ("label",))


def test_two_labels_need_a_choice() -> None:
    with pytest.raises(UserError, match=r"2 class label features \(x, y\): .* --label-key"):
        find_keys(Info(a=TEXT, x=LABEL, y=LABEL), None, None)


def test_several_labels_are_those_that_are_named() -> None:
    info = Info(("a", "y"), **{"a": TEXT, "x": LABEL, "y": LABEL, "x,y": LABEL})
    assert find_keys(info, None, "y, x") == ("a", ("y", "x"))
    assert find_keys(info, None, "x,y") == ("a", ("x,y",))
    assert find_keys(info, None, None) == ("a", ("y",))
    with pytest.raises(UserError, match="--label-key x,x names a feature twice"):
        find_keys(Info(a=TEXT, x=LABEL), None, "x,x")
    with pytest.raises(UserError, match="--label-key a: .*Valid: x"):
        find_keys(Info(a=TEXT, x=LABEL), None, "x,a")


def test_no_image_or_text_is_refused() -> None:
    with pytest.raises(UserError, match="no image or text features .*Lockstep needs one"):
        find_keys(Info(y=LABEL), None, None)
