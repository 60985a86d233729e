"""Start things as a user does, with a time-out, and show everything when they fail."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
# Limits are written for two idle cores; a busy machine takes longer, and nothing is wrong.
PATIENCE = 2
LAUNCHER_VARIABLES = ("HOROVOD_", "OMPI_", "PMIX_", "PMI_", "SLURM_", "LOCKSTEP_TERMINAL")


class Finished:
    """Exit code and what came out; `all` holds both streams for messages."""

    def __init__(self, command: list[str], code: int, out: str, err: str):
        self.code, self.out, self.err = code, out, err
        self.all = f"$ {' '.join(command)}\nexit code {code}\n--- stdout\n{out}\n--- stderr\n{err}"


def run(command: list[str], *, timeout_s: float, cwd: Path = ROOT, **environ: str) -> Finished:
    """Run to the end. After PATIENCE times `timeout_s` the whole process group is killed, and the
    test fails with what every rank had printed."""
    limit_s = PATIENCE * timeout_s
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHER_VARIABLES)}
    env = {
        **inherited,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **environ,
    }
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)  # horovodrun and mpirun end their ranks then
        try:
            out, err = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
        finished = Finished(command, -1, out, err)
        raise AssertionError(f"no end after {limit_s} s\n{finished.all}") from None
    return Finished(command, process.returncode, out, err)


def horovodrun(ranks: int, transport: str, *command: str) -> list[str]:
    """The command line that starts `command` on so many ranks over "gloo" or "mpi"."""
    options = [f"--{transport}"]
    if transport == "mpi":
        # Ranks outnumber cores here: a waiting rank must let the others compute.
        options += ["--mpi-args=--allow-run-as-root --oversubscribe --mca mpi_yield_when_idle 1"]
    return ["horovodrun", "-np", str(ranks), *options, *command]


def local(ranks: int, *arguments: str) -> list[str]:
    """The command line that starts `python -m app ARGUMENTS...` on so many ranks over gloo. Unlike
    horovodrun it does not import TensorFlow itself, which takes seconds."""
    return ["launch/local.sh", "-n", str(ranks), *arguments]


def app(*arguments: str) -> list[str]:
    """`python -m app ...` with this Python."""
    return [sys.executable, "-m", "app", *arguments]
