"""A run on two ranks whose BatchNorm is that of both, from the command line to the export."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from app.__main__ import main
from app.rundir.files import RunFiles, list_checkpoints
from tests.integration.launching import local, run

# 1,294 examples: the last step of an epoch has one, so the second rank has none.
KEYS = ["--model", "resnet20", "--width", "2", "--sync-batch-norm", "true", "--epochs", "1"]
KEYS += ["--global-batch-size", "431", "--optimizer", "sgd", "--learning-rate", "0.01"]
KEYS += ["--guard-every-steps", "1"]


def arrays(directory: Path) -> dict[str, np.ndarray]:
    newest = list_checkpoints(RunFiles(directory).checkpoints)[-1]
    return safetensors.numpy.load_file(newest / "state.safetensors")


def operations(export: Path) -> set[str]:
    """The kinds of operations in a SavedModel."""
    saved = SavedModel.FromString((export / "saved_model.pb").read_bytes())
    graphs = [one.graph_def for one in saved.meta_graphs]
    functions = [function for graph in graphs for function in graph.library.function]
    nodes = [node for graph in graphs for node in graph.node]
    return {node.op for node in nodes + [n for one in functions for n in one.node_def]}


@pytest.mark.full_matrix
@pytest.mark.timeout(1200)
def test_two_ranks_learn_what_one_does_and_their_run_is_used_as_any_other(tmp_path: Path) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    done = run(local(2, "train", *KEYS, "--run-dir", str(together)), timeout_s=300)
    assert done.code == 0, done.all
    assert main(["train", *KEYS, "--run-dir", str(alone)]) == 0
    ours, expected = arrays(together), arrays(alone)
    assert ours.keys() == expected.keys()
    assert any(path.endswith("moving_variance") for path in ours)
    for path, array in expected.items():
        np.testing.assert_allclose(ours[path], array, rtol=1e-3, atol=1e-3, err_msg=path)

    metrics = json.loads((together / "metrics.json").read_text())
    assert main(["evaluate", str(together)]) == 0
    report = json.loads((together / "evaluations" / "test" / "evaluation.json").read_text())
    assert report["accuracy"] == metrics["test_accuracy"]
    assert main(["export", str(together), "--format", "savedmodel"]) == 0
    found = operations(together / "export" / "savedmodel")
    assert "Conv2D" in found and not [name for name in found if "Horovod" in name]
    assert main(["train", "--run-dir", str(together), "--resume", "--epochs", "2"]) == 0
