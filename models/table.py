"""The table of models. A new model is a file with its builder, and a line here.

Does not import Keras: the command line reads it.
"""

import re
from typing import NamedTuple


class Model(NamedTuple):
    """A network that can be built by name.

    `kind`: what it reads, "image" or "text"; `module` and `function`: what builds it;
    `smallest_image_pixels`: the total downsampling, since a smaller image would end as an empty
    map, or as nothing but padding; 0 for texts.

    `pretrained`: the format of weights that it may begin with, a name of
    `app.pretrained.find.FORMATS`; "" if there is none. `stages`: a pattern for how the names of its
    layers begin; layers for which it matches the same text are a stage of the encoder, and what it
    does not match is the head. `residual`: whether it is made of blocks that may be left out.
    """

    name: str
    kind: str
    module: str
    function: str
    smallest_image_pixels: int = 0
    pretrained: str = ""
    stages: str = ""
    residual: bool = False

    @property
    def needs_pretrained(self) -> bool:
        """Whether nobody trains it from nothing: its sizes come with its weights."""
        return self.pretrained == "bert"

    def stage_of(self, name: str) -> str:
        """The stage of the encoder that a layer of this name, or a variable of this path, belongs
        to; "" for the head, and where there is no encoder."""
        found = re.match(self.stages, name) if self.stages else None
        return found.group() if found else ""

    def check_image(self, height: int, width: int) -> None:
        """Raise ValueError for an image that is too small."""
        smallest = self.smallest_image_pixels
        if min(height, width) < smallest:
            raise ValueError(
                f"{self.name} needs images of at least {smallest} x {smallest} pixels, received "
                f"{height} x {width}; resize the images or choose a smaller model"
            )

    def check_depth(self) -> None:
        """Raise ValueError if this network has no stochastic depth."""
        if not self.residual:
            raise ValueError(
                "stochastic_depth leaves out blocks of a residual network, and this one has none, "
                f"or a rate of its own; use {', '.join(residual_names())}, or leave it out"
            )


MODELS = {
    model.name: model
    for model in (
        Model("cnn", "image", "models.cnn", "build_cnn", smallest_image_pixels=4),
        Model(
            "resnet20",
            "image",
            "models.resnet",
            "build_resnet20",
            smallest_image_pixels=4,
            residual=True,
        ),
        Model(
            "resnet18",
            "image",
            "models.resnet",
            "build_resnet18",
            smallest_image_pixels=8,
            pretrained="timm",
            stages=r"stem|layer\d",
            residual=True,
        ),
        Model(
            "resnet50",
            "image",
            "models.resnet",
            "build_resnet50",
            smallest_image_pixels=32,
            pretrained="timm",
            stages=r"stem|layer\d",
            residual=True,
        ),
        Model(
            "efficientnetv2",
            "image",
            "models.efficientnet",
            "build_efficientnetv2",
            smallest_image_pixels=32,
            pretrained="keras",
            stages=r"stem|block\d|top",
        ),
        Model("airbench", "image", "models.airbench", "build_airbench", smallest_image_pixels=9),
        Model("bag", "text", "models.bag", "build_bag"),
        Model("textcnn", "text", "models.textcnn", "build_textcnn"),
        Model("transformer", "text", "models.transformer", "build_transformer"),
        Model(
            "bert",
            "text",
            "models.bert",
            "build_bert",
            pretrained="bert",
            stages=r"embeddings|block\d+",
        ),
    )
}


def residual_names() -> list[str]:
    """The models that take `stochastic_depth`."""
    return [name for name, model in MODELS.items() if model.residual]


def names_of(kind: str) -> list[str]:
    """The models that read "image" or "text"."""
    return [name for name, model in MODELS.items() if model.kind == kind]
