"""The launcher's judgement, with agents that are threads of a process of its own."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
# mpirun is over at once; the agent of rank 1 takes its time to say how its rank ended.
LATE_WORDS = """
import sys, threading, time
from launch.line import call
from launch.supervise import Supervisor

supervisor = Supervisor(["h1", "h2"], "127.0.0.1")
lines = [call(supervisor.line, rank) for rank in range(2)]

def end(rank, after_s):
    time.sleep(after_s)
    lines[rank].send({"ended": int(sys.argv[1])})

for rank in range(2):
    threading.Thread(target=end, args=(rank, 1.5 * rank), daemon=True).start()
supervisor.start(None, ["sleep", "0.5"], {"PATH": "/bin:/usr/bin"})
sys.exit(supervisor.run())
"""


def ended(status: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LATE_WORDS, str(status)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)


def test_how_a_rank_ended_counts_though_mpirun_has_ended_before_it_was_heard() -> None:
    assert ended(75).returncode == 75
    assert ended(0).returncode == 0
