"""The job of overlays/elastic in pods: workers that come, are evicted, come back and are killed."""

import time

import pytest

from app.errors import STOPPED
from launch.discovery import LOOK_EVERY_S
from tests.cluster.rehearsal import ENDLESS, Cluster, epochs, newest_checkpoint
from tests.integration.launching import PATIENCE

pytestmark = [pytest.mark.full_matrix, pytest.mark.timeout(3600)]  # the image may be built first


@pytest.fixture
def job(jobs: list[Cluster]) -> Cluster:
    return jobs[2]


def wait_for(job: Cluster, words: str, times: int = 1, timeout_s: float = 240) -> None:
    """Return when the launcher has printed these words so often."""
    deadline = time.monotonic() + PATIENCE * timeout_s
    while (log := job.kubelet.log(job.name)).count(words) < times:
        assert time.monotonic() < deadline and job.kubelet.running(job.name), f"{words}: {log}"
        time.sleep(0.2)


def test_the_number_of_ranks_follows_the_workers_that_run(job: Cluster) -> None:
    kubelet, (first, second) = job.kubelet, job.worker_names
    job.discover()
    kubelet.start(job.launcher("elastic", *ENDLESS))
    kubelet.wait_for(job.name, "waiting for /etc/mpi/discover_hosts.sh to name a worker", 60)
    kubelet.start(job.workers[0])
    job.discover(0)
    job.wait_for_epoch("elastic", 1)

    kubelet.start(job.workers[1])  # `replicas` was raised
    job.discover(0, 1)
    wait_for(job, "1 -> 2 ranks")

    kubelet.stop(second)  # evicted, or `replicas` was lowered
    job.discover(0)
    wait_for(job, f"{second}.lockstep-cpu-elastic.training.svc leaves")
    time.sleep(2 * LOOK_EVERY_S)  # or it returns later: policy and joining are tested without pods
    kubelet.start(job.workers[1])  # the user has deleted the Failed pod
    job.discover(0, 1)
    wait_for(job, "1 -> 2 ranks", 2)

    kubelet.kill(second)  # the rank and its sshd: out of memory
    wait_for(job, "going on with 1 rank", timeout_s=30)
    job.wait_for_epoch("elastic", max(epochs(job.log("elastic"))) + 1, timeout_s=30)

    kubelet.stop(job.name)
    assert kubelet.exit_code(job.name, 60) == STOPPED, kubelet.log(job.name)
    assert "restarting" not in kubelet.log(job.name)
    assert newest_checkpoint(job.runs / "elastic") >= 1
    for name in (first, second):
        kubelet.remove(name)
