"""The recipes on real data, where it is at hand, as a user runs them: worlds of 2 to 4."""

import json
import os
import shutil

import pytest

from tests.integration.launching import run

pytestmark = pytest.mark.full_matrix
CIFAR = ["--train", "train[:20%]", "--test", "test[:20%]"]


@pytest.mark.timeout(800)
@pytest.mark.parametrize(
    ("recipe", "variable", "launch", "options", "at_least"),
    [
        pytest.param("cifar10", "LOCKSTEP_TFDS_DIR", ["-n", "2"], CIFAR, 0.3, id="cifar10-2-gloo"),
        pytest.param("clinc150", "LOCKSTEP_TFDS_DIR", ["-n", "3"], [], 0.7, id="clinc150-3-gloo"),
        pytest.param(
            "clinc150_domains", "LOCKSTEP_CLINC150_DIR", ["-n", "2"], [], 0.5, id="domains-2-gloo"
        ),
        pytest.param(
            "banking77",
            "LOCKSTEP_BANKING77_DIR",
            ["-n", "4", "--mpi"],
            [],
            0.4,
            id="banking77-4-mpi",
        ),
    ],
)
def test_one_epoch_of_a_recipe_learns(tmp_path, recipe, variable, launch, options, at_least):
    if variable not in os.environ:
        pytest.skip(f"{variable} is not set: the data of {recipe} is not at hand")
    if "--mpi" in launch and shutil.which("mpirun") is None:
        pytest.skip("Open MPI is not installed")
    directory = tmp_path / "run"
    command = ["launch/local.sh", *launch, "train", "--recipe", f"launch/recipes/{recipe}.toml"]
    command += ["--data-dir", os.environ[variable], "--epochs", "1", "--run-dir", str(directory)]
    done = run([*command, *options], timeout_s=380)
    assert done.code == 0, done.all
    assert done.err == "", done.all
    metrics = json.loads((directory / "metrics.json").read_text())
    assert metrics["world_size"] == int(launch[1])
    assert metrics["test_accuracy"] > at_least, done.all
