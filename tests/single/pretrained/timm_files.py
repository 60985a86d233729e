"""Directories of timm with weights from a seed, as `timm.models.save_for_hf` writes them."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from app.pretrained.timm import tensors_of

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CLASSES = 10


def made_up_tensors(architecture: str, seed: int = 0) -> dict[str, np.ndarray]:
    """All tensors of an architecture, by name, with which activations stay of order 1."""
    rng, made = np.random.default_rng(seed), dict[str, np.ndarray]()
    for name, shape in tensors_of(architecture).values():
        noise = rng.standard_normal(shape)
        if len(shape) == 4:
            made[name] = noise * math.sqrt(2 / math.prod(shape[1:]))
        elif name.endswith("running_var"):
            made[name] = 1 + 0.2 * np.abs(noise)
        elif name.endswith("weight"):
            # A block adds less than what it adds to: so many sums would grow.
            adds = name.endswith("bn2.weight" if architecture == "resnet18" else "bn3.weight")
            made[name] = (0.4 if adds else 1.0) * (1 + 0.1 * noise)
        else:
            made[name] = 0.1 * noise
    features = made[[name for name in made if name.endswith("bias")][-1]].shape[0]
    made["fc.weight"] = rng.standard_normal((CLASSES, features)) / math.sqrt(features)
    made["fc.bias"] = 0.1 * rng.standard_normal(CLASSES)
    return {name: array.astype(np.float32) for name, array in made.items()}


def made_up_images(height: int = 70, width: int = 64) -> np.ndarray:
    """Uint8 (2, height, width, 3); every second convolution that strides meets an odd height."""
    return np.random.default_rng(1).integers(0, 256, (2, height, width, 3), dtype=np.uint8)


def config_of(architecture: str, image_size: int = 64) -> dict[str, Any]:
    """What matters of config.json."""
    return {
        "architecture": architecture,
        "num_classes": CLASSES,
        "pretrained_cfg": {
            "tag": "a1_in1k",
            "input_size": [3, image_size, image_size],
            "mean": MEAN,
            "std": STD,
        },
    }


def write_directory(directory: Path, architecture: str, image_size: int = 64) -> Path:
    """A directory of an architecture; gives it back."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config_of(architecture, image_size)))
    tensors = made_up_tensors(architecture)
    tensors["bn1.num_batches_tracked"] = np.array(7, np.int64)
    safetensors.numpy.save_file(tensors, directory / "model.safetensors")
    return directory
