"""What PyTorch answers with the networks of timm and weights from a seed, for test_timm.py.

Made once, with packages that are not among the requirements (torch 2.13.0, timm 1.0.31):

    pip install --target /tmp/torch torch torchvision timm
    PYTHONPATH=/tmp/torch python -m tests.single.pretrained.torch_outputs
"""

import json
from pathlib import Path

import numpy as np

from tests.single.pretrained.timm_files import (
    CLASSES,
    MEAN,
    STD,
    made_up_images,
    made_up_tensors,
)

OUTPUTS = Path(__file__).with_name("torch_outputs.json")


def answer_of_torch(architecture: str) -> list[list[float]]:
    """Logits (2, CLASSES); all tensors of the network must be given, and no others."""
    import timm
    import torch

    model = timm.create_model(architecture, num_classes=CLASSES).eval()
    state = {name: torch.from_numpy(a) for name, a in made_up_tensors(architecture).items()}
    counts = {n: v for n, v in model.state_dict().items() if n.endswith("num_batches_tracked")}
    model.load_state_dict({**state, **counts}, strict=True)
    pixels = (made_up_images() / 255 - np.array(MEAN)) / np.array(STD)
    with torch.no_grad():
        batch = torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2)
        return [[round(float(one), 6) for one in row] for row in model(batch)]


if __name__ == "__main__":
    answers = {name: answer_of_torch(name) for name in ("resnet18", "resnet50")}
    OUTPUTS.write_text(json.dumps(answers, indent=1) + "\n")
