"""Small runs of two labels, on texts and on images; the second label is missing in some rows."""

import csv
import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from app.distributed.world import World
from app.recipe import load
from app.train import train

UNKNOWN = "out_of_scope"
DOMAINS = {"buy": "shop", "sell": "shop", "ask": "help", "thank": "help", UNKNOWN: ""}


def write_rows(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def text_rows(number: int, seed: int = 0) -> list[tuple[str, str, str]]:
    """(text, intent, domain): the intent is a word of the text, but for one in ten."""
    chance = random.Random(seed)
    rows = []
    for _ in range(number):
        said, fillers = chance.choice(list(DOMAINS)), chance.choices("abcdefgh", k=3)
        intent = chance.choice(list(DOMAINS)) if chance.random() < 0.1 else said
        rows.append((" ".join([*fillers, said]), intent, DOMAINS[intent]))
    return rows


def text_run(folder: Path, **keys: object) -> Path:
    """A run on "intent" and "domain"."""
    data = write_rows(folder / "rows.csv", ("text", "intent", "domain"), text_rows(400))
    wanted = {"dataset": str(data), "label_key": "intent,domain", "task_weights": "1,0.5"}
    wanted |= {"model": "bag", "width": 8, "epochs": 6, "learning_rate": 0.05, "validation": 0.2}
    wanted |= {"run_dir": folder / "run", "global_batch_size": 32, **keys}
    train(load(None, wanted), world=World())
    return folder / "run"


def image_run(folder: Path) -> Path:
    """A run on "shade" and "côté": grey images with one bright side, which is not always said."""
    chance, rows = random.Random(1), []
    for number in range(80):
        shade, side = chance.choice(("dark", "light")), chance.choice(("left", "right"))
        image = Image.new("L", (8, 8), {"dark": 20, "light": 120}[shade])
        image.paste(250, (0, 0, 4, 8) if side == "left" else (4, 0, 8, 8))
        image.save(folder / f"{number}.png")
        rows.append((f"{number}.png", shade, "" if number % 4 == 0 else side))
    data = write_rows(folder / "rows.csv", ("image", "shade", "côté"), rows)
    keys = {"dataset": str(data), "label_key": "shade,côté", "width": 4, "epochs": 2}
    keys |= {"run_dir": folder / "run", "global_batch_size": 16, "learning_rate": 0.01}
    train(load(None, keys), world=World())
    return folder / "run"
