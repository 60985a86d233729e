"""Samples of a batch, for people: what the model sees after decoding, augmenting or tokenising."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from app.data.heads import MISSING, by_head
from app.data.text.tokenizer import tokenizer_from
from app.evaluation.markdown import cell, plain, table

MOST_SAMPLES = 16
MOST_TOKENS = 60
CELL_PIXELS, CAPTION_PIXELS, COLUMNS = 128, 18, 4


def samples_of(batch: Any, about: Mapping[str, Any]) -> Any:
    """A contact sheet, uint8 (height, width, 3), of the first images of a batch, or a Markdown
    table of its first texts.

    `batch`: an `app.data.batches.Batch`; `about`: `DataPlan.to_json()`.
    """
    inputs = batch.inputs[:MOST_SAMPLES].numpy()
    heads = about.get("heads") or [("class", about["class_names"])]
    columns = [
        _classes(batch, number, class_names) for number, (_, class_names) in enumerate(heads)
    ]
    if about["kind"] == "text":
        tokenizer = tokenizer_from(about["tokenizer"])
        texts = [" · ".join(tokenizer.tokens_of(ids)[:MOST_TOKENS]) for ids in inputs]
        rows = zip(*columns, texts, strict=True)
        header = [plain(name) for name, _ in heads]
        return table([*header, "tokens"], [[cell(one) for one in row] for row in rows])
    return contact_sheet(inputs, [", ".join(row) for row in zip(*columns, strict=True)])


def _classes(batch: Any, head: int, names: Sequence[str]) -> list[str]:
    """The class of each sample; of a blend, those of both images."""
    targets = batch.targets[head] if isinstance(batch.targets, tuple) else batch.targets
    if targets is not None:
        return [_mixture(shares, names) for shares in targets[:MOST_SAMPLES].numpy()]
    labels = by_head(batch.labels[:MOST_SAMPLES].numpy())[:, head]
    return ["-" if label == MISSING else names[label] for label in labels]


def _mixture(shares: np.ndarray, names: Sequence[str]) -> str:
    """The classes of a blend, the larger share first."""
    order = np.argsort(-shares, kind="stable")[:2]
    shown = [f"{names[number]} {shares[number]:.0%}" for number in order if shares[number]]
    return ", ".join(shown) or "-"


def contact_sheet(images: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """Images in rows of four, each with its caption above it; uint8 (height, width, 3).

    `images`: uint8 (n, height, width, 1 or 3); small ones are enlarged with their pixels visible.
    """
    rows = -(-len(images) // COLUMNS)
    size = (CELL_PIXELS * COLUMNS, (CELL_PIXELS + CAPTION_PIXELS) * rows)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left = number % COLUMNS * CELL_PIXELS
        top = number // COLUMNS * (CELL_PIXELS + CAPTION_PIXELS)
        one = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")
        one.thumbnail((CELL_PIXELS - 4, CELL_PIXELS - 4))
        scale = (CELL_PIXELS - 4) // max(one.size)
        if scale > 1:
            one = one.resize((one.width * scale, one.height * scale), Image.Resampling.NEAREST)
        sheet.paste(one, (left + 2, top + CAPTION_PIXELS))
        while draw.textlength(caption) > CELL_PIXELS - 4:
            caption = caption[:-2] + "…"
        draw.text((left + 2, top + 3), caption, fill="black")
    return np.asarray(sheet)
