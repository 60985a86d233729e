"""Jobs of our manifests in pods: two side by side, one that is suspended, one that fails."""

import json
import re
import threading
import time

import pytest

from app.errors import STOPPED
from tests.cluster.pods import GRACE_S
from tests.cluster.rehearsal import ENDLESS, newest_checkpoint

pytestmark = [pytest.mark.full_matrix, pytest.mark.timeout(3600)]  # the image may be built first


def test_two_jobs_run_side_by_side_and_cannot_enter_each_other(cluster, jobs):
    mine = jobs[1]
    mine.start_workers()
    mine.wait_for_workers()
    for job in (cluster, mine):
        job.kubelet.start(job.launcher(f"beside-{job.name}", "--epochs", "1"))
    kubelet = cluster.kubelet
    (other,) = mine.worker_names
    enter = f"ssh {other}.lockstep-mine.training.svc 2>&1 || true"
    refused = kubelet.execute(cluster.worker_names[0], "sh", "-c", enter)
    assert "Permission denied (publickey)" in refused
    for job in (cluster, mine):
        assert kubelet.exit_code(job.name, 240) == 0, kubelet.log(job.name)
        assert kubelet.message(job.name) == ""
        metrics = json.loads((cluster.runs / f"beside-{job.name}" / "metrics.json").read_text())
        assert (metrics["world_size"], metrics["epoch"]) == (len(job.workers), 1)
    kubelet.remove(other)


def test_a_suspended_job_stops_in_order_and_goes_on_after_it_is_resumed(cluster):
    """Kueue preempts it: launcher and workers are deleted at once."""
    kubelet, run = cluster.kubelet, cluster.runs / "suspended"
    kubelet.start(cluster.launcher("suspended", *ENDLESS))
    cluster.wait_for_epoch("suspended", 2)
    began = time.monotonic()
    stopping = [
        threading.Thread(target=kubelet.stop, args=(name,))
        for name in (cluster.name, *cluster.worker_names)
    ]
    for one in stopping:
        one.start()
    for one in stopping:
        one.join()
    assert time.monotonic() - began < GRACE_S  # nothing had to be killed
    told = kubelet.log(cluster.name)
    assert kubelet.exit_code(cluster.name, 1) == STOPPED, told
    assert kubelet.message(cluster.name).startswith("stopped by SIGTERM"), told
    stopped = max(run.glob("checkpoints/step-*")).name
    if step := re.search(r"stopped by .* at step (\d+), with ", cluster.log("suspended")):
        assert stopped == f"step-{int(step[1]):08d}"
    epoch = newest_checkpoint(run)

    # The launcher of a job that is resumed does not wait for its workers to be ready.
    kubelet.start(cluster.launcher("suspended", "--epochs", str(epoch + 1)))
    kubelet.wait_for(cluster.name, "waiting for lockstep-cpu-worker-", 60)
    cluster.start_workers()
    assert kubelet.exit_code(cluster.name, 240) == 0, kubelet.log(cluster.name)
    assert newest_checkpoint(run) == epoch + 1
    assert f"from {epoch}" in cluster.log("suspended")


def test_a_launcher_that_fails_leaves_the_reason_for_kubectl_describe(cluster):
    kubelet = cluster.kubelet
    kubelet.start(cluster.launcher("mistaken", "--dataset", "nothing-such"))
    code = kubelet.exit_code(cluster.name, 120)
    told = kubelet.message(cluster.name)
    assert code == 2 and told.startswith("error: ") and "nothing-such" in told, told
