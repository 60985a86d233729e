"""Samples of a batch as people see them in TensorBoard."""

import numpy as np
import tensorflow as tf

from app.data.batches import Batch
from app.data.text.vocabulary import Vocabulary
from app.monitor.tensorboard_samples import CAPTION_PIXELS, CELL_PIXELS, contact_sheet, samples_of
from tests.single.monitor.event_values import ABOUT, batch


def test_an_image_is_enlarged_under_its_caption_with_its_pixels_as_they_are() -> None:
    image = np.array([[0, 255], [255, 0]], np.uint8)[..., None]
    sheet = contact_sheet(np.stack([image, 255 - image]), ["one", "a caption that is far too long"])
    cell = sheet[CAPTION_PIXELS : CAPTION_PIXELS + 124, 2:126]
    assert cell.shape == (124, 124, 3)
    assert (cell[:62, :62] == 0).all() and (cell[:62, 62:] == 255).all()
    assert (sheet[:CAPTION_PIXELS] < 128).any()  # something is written there
    assert (sheet[:CAPTION_PIXELS, 2 * CELL_PIXELS - 2 :] == 255).all()  # and ends in its cell


def test_texts_are_shown_as_the_tokens_that_the_model_reads() -> None:
    about = {
        "kind": "text",
        "class_names": ["a|b", "c"],
        "tokenizer": Vocabulary("words", 1, 9, ["good", "day"]).to_json(),
    }
    ids = tf.constant([[2, 3, 0], [1, 2, 3]], tf.int32)
    shown = samples_of(Batch(ids, tf.constant([0, 1], tf.int64)), about)
    assert "good · day |" in shown and "\\[unknown\\] · good · day" in shown
    assert "a\\|b" in shown


def test_blends_are_captioned_with_their_shares(monkeypatch) -> None:
    captions: list[str] = []
    monkeypatch.setattr(
        "app.monitor.tensorboard_samples.contact_sheet",
        lambda images, texts: captions.extend(texts),
    )
    targets = tf.constant([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]])
    samples_of(batch(targets), ABOUT)
    assert captions == ["dog 75%, cat 25%", "cat 100%", "cat 50%, dog 50%"]
