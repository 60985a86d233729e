"""Plain `mpirun`: an exchange that waits for a rank which never comes ends."""

import shutil
import sys

import pytest

from tests.integration.launching import run

STUCK = """
import time
from app.distributed import connect
world = connect(stall_timeout_s=4)
world.barrier()
if world.rank == 1:
    time.sleep(600)
world.barrier()
"""


@pytest.mark.full_matrix
@pytest.mark.skipif(shutil.which("mpirun") is None, reason="needs Open MPI")
def test_over_mpi_a_rank_that_never_comes_is_named_and_all_end():
    options = ["--allow-run-as-root", "--oversubscribe", "-np", "2"]
    done = run(["mpirun", *options, sys.executable, "-c", STUCK], timeout_s=120)
    assert done.code not in (0, -1), done.all
    assert "stalled for longer than 4 seconds" in done.all and "\n1!: [" in done.all, done.all
    assert "Horovod has been shut down" in done.all, done.all
