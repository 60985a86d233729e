"""Runs tests/parallel under horovodrun: many tests in one launch, since a launch takes seconds."""

import re
import shutil
import sys

import pytest

from tests.integration.launching import horovodrun, run

QUICK = ["tests/parallel", "-m", "not full_matrix"]
SLOW = ["tests/parallel", "-m", "full_matrix"]
EXCHANGE = [f"tests/parallel/test_{name}.py" for name in ("equality", "optimizer", "wire", "world")]
UNEVEN = [
    *EXCHANGE,
    *(
        f"tests/parallel/test_{name}.py"
        for name in ("evaluate", "replicas", "commit_points", "signals", "feedback")
    ),
]
WAYS = [f"tests/parallel/test_{name}.py" for name in ("matrix", "stale", "hierarchical")]
FOUR = [*WAYS, EXCHANGE[0], "-k", "not test_equality or n_ranks_end or fp16"]
full = pytest.mark.full_matrix


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("ranks", "transport", "tests"),
    [
        pytest.param(2, "gloo", QUICK, id="2-gloo"),
        pytest.param(2, "gloo", SLOW, id="2-gloo-slow", marks=full),
        pytest.param(2, "mpi", EXCHANGE[1:], id="2-mpi", marks=full),
        pytest.param(3, "gloo", [*UNEVEN, *QUICK[1:]], id="3-gloo", marks=full),
        pytest.param(4, "mpi", [*FOUR, *QUICK[1:]], id="4-mpi", marks=full),
    ],
)
def test_the_parallel_tests_pass(ranks, transport, tests):
    if transport == "mpi" and shutil.which("mpirun") is None:
        pytest.skip("Open MPI is not installed: apt-get install openmpi-bin libopenmpi-dev")
    pytest_here = [sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider"]
    # A rank that hangs ends itself, with its stack, and so the others.
    pytest_here += ["--timeout=400", "--timeout-method=thread", "-o", "addopts="]
    done = run(horovodrun(ranks, transport, *pytest_here, *tests), timeout_s=700)
    assert done.code == 0, done.all
    # The last line of every rank, whose warnings may say "passed" too.
    assert len(re.findall(r"\d+ passed(?:, .*?)? in [\d.]+s", done.out)) == ranks, done.all
