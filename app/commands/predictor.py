"""Answers batches of inputs with the classes of a run; an input may be answered by an error."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from app.commands.predict_inputs import Item
from app.commands.saved_run import SavedRun, calibrated
from app.data.batches import padded
from app.data.images import decode_images
from app.data.sources.image_files import read_header


class Predictor:
    """Answers batches of inputs with the classes of a run."""

    def __init__(self, run: SavedRun, top: int | None = None, abstain_below: float | None = None):
        self.run = run
        self.top = top
        self.abstain_below = abstain_below

        def forward(inputs):
            logits = run.classifier(inputs, training=False)
            of_heads = [tf.cast(one, tf.float32) for one in tf.nest.flatten(logits)]
            return [
                (one, tf.nn.softmax(calibrated(run, head, one)))
                for head, one in zip(run.heads, of_heads, strict=True)
            ]

        # Traced once, whatever the number and length of the inputs.
        def spec(given: Any) -> tf.TensorSpec:
            return tf.TensorSpec(given.shape, tf.uint8 if run.kind == "image" else given.dtype)

        signature = [tf.nest.map_structure(spec, run.classifier.network.input)]
        self._forward = tf.function(forward, input_signature=signature, autograph=False)

    def __call__(self, batch: Sequence[Item]) -> list[dict[str, Any]]:
        """The answer to each input of a batch, in their order."""
        sound = [item.given for item in batch if item.error is None]
        inputs, errors = (self._images if self.run.kind == "image" else self._texts)(sound)
        classes = self._classes(inputs)
        places = range(len(sound))
        of_sound = iter([{"error": errors[i]} if i in errors else next(classes) for i in places])
        return [
            {"input": item.given, **({"error": item.error} if item.error else next(of_sound))}
            for item in batch
        ]

    def _texts(self, texts: list[str]) -> tuple[Any, dict[int, str]]:
        """Token ids int32 (n, longest), padded with 0; texts have no errors here."""
        if not texts:
            return (), {}
        return padded(self.run.tokenizer.encode(np.array(texts, dtype=object))[0]), {}

    def _images(self, paths: list[str]) -> tuple[Any, dict[int, str]]:
        """The images that can be decoded, uint8 (good, h, w, c), and by place why others cannot."""
        height, width, _ = self.run.image_shape
        size = None if self.run.image_spec.size else (height, width)
        loaded = [_load_image(path, size) for path in paths]
        reasons = {place: one for place, one in enumerate(loaded) if isinstance(one, str)}
        places = [place for place in range(len(paths)) if place not in reasons]
        content = [one for one in loaded if isinstance(one, bytes)]
        images, undecoded = decode_images(content, self.run.image_spec)
        return images, reasons | {places[index]: reason for index, reason in undecoded}

    def _classes(self, inputs: Any) -> Iterator[dict[str, Any]]:
        """What is said of each row; of several labels, of each in "heads"."""
        found = [(logits.numpy(), shares.numpy()) for logits, shares in self._forward(inputs)]
        heads = self.run.heads
        for row in range(len(found[0][0])):
            if not all(np.isfinite(shares[row]).all() for _, shares in found):
                yield {"error": "the model gives no finite numbers: has its training diverged?"}
                continue
            answers = {
                head.name: self._answer(head.class_names, logits[row], shares[row])
                for head, (logits, shares) in zip(heads, found, strict=True)
            }
            yield {"heads": answers} if len(heads) > 1 else answers[heads[0].name]

    def _answer(
        self, names: Sequence[str], logits: np.ndarray, probabilities: np.ndarray
    ) -> dict[str, Any]:
        """The class, its probability and those of the `top` classes, of one label."""
        # By logits: probabilities may round to the same number. Among equals, the first class.
        order = np.argsort(-logits, kind="stable")[: self.top]
        found = {names[label]: float(probabilities[label]) for label in order}
        best = names[order[0]]
        abstains = self.abstain_below is not None and found[best] < self.abstain_below
        answer = None if abstains else best
        return {"class": answer, "probability": found[best], "probabilities": found}


def _load_image(path: str, size: tuple[int, int] | None) -> bytes | str:
    """The bytes of an image file, or what is wrong with it.

    `size`: the (height, width) that it must have, None if it will be resized.
    """
    try:
        if not os.path.isfile(path):  # a pipe, for one, could block forever
            return "not a file" if os.path.exists(path) else "no such file"
        header = read_header(path)
        if isinstance(header, str):
            return header
        if size and (header.height, header.width) != size:
            return (
                f"{header.width}x{header.height} pixels, but this run reads {size[1]}x{size[0]}: "
                "resize it (only runs on square images resize their inputs)"
            )
        return Path(path).read_bytes()
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
