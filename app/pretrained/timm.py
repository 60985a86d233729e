"""ResNets of timm (PyTorch Image Models), as its directories on Hugging Face hold them.

A directory has config.json and model.safetensors. Names of tensors: those of timm and torchvision.
"""

import math
from pathlib import Path
from typing import Any

from app.config import Config
from app.errors import UserError
from app.pretrained.found import Found, Tensors, find_tensors, read_directory

# Of each model: the blocks of its stages, and of each convolution in a block its kernel and how
# many times the stage's width it puts out.
ARCHITECTURES = {
    "resnet18": ((2, 2, 2, 2), ((3, 1), (3, 1))),
    "resnet50": ((3, 4, 6, 3), ((1, 1), (3, 1), (1, 4))),
}
STEM_FILTERS = 64
NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def read(config: Config, directory: Path) -> Found:
    """Check a directory against itself and the config; reads no weights yet.

    Raises UserError for a file that is missing or damaged, for another network than the config's,
    and for tensors that are missing or of other shapes.
    """
    model = config.model.model
    file, found = read_directory(directory)
    architecture = str(found.get("architecture", ""))
    name = architecture.partition(".")[0]  # without that of the weights
    if name != model:
        advice = f"give --model {name}" if name in ARCHITECTURES else "its variants are not read"
        raise UserError(f"{file}: its architecture is '{architecture}', not '{model}': {advice}")
    pixels = {**found, **_object(found.get("pretrained_cfg", {}), "pretrained_cfg", file)}
    size, mean, std = (_numbers(pixels, key, file) for key in ("input_size", "mean", "std"))
    for key, value in (("input_size", size), ("std", std)):
        if min(value) <= 0:
            raise UserError(f"{file}: {key} is {value}: expected numbers above 0")
    files = find_tensors(directory)
    Tensors(files).check(dict(tensors_of(model).values()), directory)
    return Found(files, {"mean": mean, "std": std}, image_size=round(size[1]))


def load(found: Found, network: Any) -> None:
    """Put the weights into a network of models.resnet, whose head stays as it is.

    Raises UserError for numbers that are not finite.
    """
    tensors, names = Tensors(found.files), tensors_of(network.name)
    for variable in network.variables:
        if variable.path in names:
            array = tensors.read(names[variable.path][0])
            is_kernel = variable.path.endswith("kernel")
            variable.assign(array.transpose(2, 3, 1, 0) if is_kernel else array)


def tensors_of(model: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """By the paths of models.resnet: the tensor's name and shape, (out, in, height, width) for a
    kernel. The head is not among them."""
    blocks_per_stage, convolutions = ARCHITECTURES[model]
    found = _conv_norm("stem_{}1", ("conv1", "bn1"), (STEM_FILTERS, 3, 7))
    before = STEM_FILTERS
    for stage, blocks in enumerate(blocks_per_stage):
        for block in range(blocks):
            ours, theirs = f"layer{stage + 1}_block{block}_", f"layer{stage + 1}.{block}."
            inputs = before
            for number, (kernel, times) in enumerate(convolutions, start=1):
                names = f"{theirs}conv{number}", f"{theirs}bn{number}"
                filters = STEM_FILTERS * 2**stage * times
                found |= _conv_norm(f"{ours}{{}}{number}", names, (filters, before, kernel))
                before = filters
            if block == 0 and (stage > 0 or inputs != before):
                names = f"{theirs}downsample.0", f"{theirs}downsample.1"
                found |= _conv_norm(f"{ours}shortcut_{{}}", names, (before, inputs, 1))
    return found


def _conv_norm(
    ours: str, theirs: tuple[str, str], sizes: tuple[int, int, int]
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """A convolution of (filters, channels, height and width) and the BatchNorm that follows.

    `ours`: with {} for "conv" and "norm"; `theirs`: the names of both.
    """
    filters, channels, kernel = sizes
    conv, norm = theirs
    shape = filters, channels, kernel, kernel
    found: dict[str, tuple[str, tuple[int, ...]]] = {
        f"{ours.format('conv')}/kernel": (f"{conv}.weight", shape)
    }
    for name, called in NORM.items():
        found[f"{ours.format('norm')}/{name}"] = f"{norm}.{called}", (filters,)
    return found


def _object(value: Any, key: str, file: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{file}: {key} is {value!r}: expected an object")
    return value


def _numbers(found: dict[str, Any], key: str, file: Path) -> list[float]:
    """Three finite numbers: of each color, or channels, height and width."""
    value = found.get(key)
    numbers = value if isinstance(value, list) else []
    if len(numbers) != 3 or not all(
        type(one) in (int, float) and math.isfinite(one) for one in numbers
    ):
        raise UserError(f"{file}: {key} is {value!r}: expected 3 numbers")
    return numbers
