"""Our image and our manifests, with podman for Kubernetes and mpi_operator.py for the operator.

Launcher and workers of overlays/cpu run in containers of their own, with addresses of their own,
and train for real.
"""

import json
import re
import time
from pathlib import Path

import pytest

from app.errors import STOPPED
from tests.cluster.manifests import K8S, build
from tests.cluster.pods import GRACE_S, podman
from tests.cluster.rehearsal import ENDLESS, PLAIN, TENSORBOARD, epochs, newest_checkpoint

pytestmark = [pytest.mark.full_matrix, pytest.mark.timeout(3600)]  # the image may be built first

LAUNCHER = "lockstep-cpu-launcher"
WORKERS = ["lockstep-cpu-worker-0", "lockstep-cpu-worker-1"]
LISTEN = "0A"  # of /proc/net/tcp


def test_a_job_of_our_manifests_trains_on_two_workers(cluster):
    cluster.kubelet.start(cluster.launcher("digits"))
    code = cluster.kubelet.exit_code(LAUNCHER, 400)
    log = cluster.kubelet.log(LAUNCHER)
    assert code == 0, log
    assert "2 rank(s), mpi" in log
    run = cluster.runs / "digits"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["world_size"] == 2
    assert metrics["epoch"] == 30
    assert metrics["test_accuracy"] > 0.95
    assert newest_checkpoint(run) == 30
    assert list(run.glob("tensorboard/**/events.out.tfevents.*"))


def test_the_image_trains_on_two_ranks_of_one_host(cluster):
    args = ["launch/local.sh", "-n", "2", "train", "--dataset", "digits", "--epochs", "1"]
    pod = {"metadata": {"name": PLAIN}, "spec": {"containers": [{"name": PLAIN, "args": args}]}}
    cluster.kubelet.start(pod)
    assert cluster.kubelet.exit_code(PLAIN, 300) == 0, cluster.kubelet.log(PLAIN)
    assert "2 rank(s), gloo" in cluster.kubelet.log(PLAIN)


def test_a_job_whose_launcher_and_then_a_worker_is_killed_resumes_and_finishes(cluster):
    kubelet, run = cluster.kubelet, cluster.runs / "restarted"
    launcher = cluster.launcher("restarted", *ENDLESS)
    kubelet.start(launcher)
    cluster.wait_for_epoch("restarted", 3)
    kubelet.kill(LAUNCHER)
    cluster.wait_for_no_rank(60)  # two generations of ranks would write to one directory
    first = newest_checkpoint(run)
    assert first >= 3

    kubelet.start(launcher)  # the Job's next try
    cluster.wait_for_epoch("restarted", first + 3)
    kubelet.kill(WORKERS[1])
    code = kubelet.exit_code(LAUNCHER, 120)
    assert code not in (0, 2), kubelet.log(LAUNCHER)  # 2 is for mistakes of the user
    told = kubelet.message(LAUNCHER)  # of `kubectl describe pod`
    assert told.startswith(f"error: rank 1 on host {WORKERS[1]}.lockstep-cpu.training.svc "), told
    assert "delete it" in told, told
    cluster.wait_for_no_rank(60)
    second = newest_checkpoint(run)
    assert second >= first + 3

    last = second + 3
    kubelet.start(cluster.workers[1])  # the kubelet starts it again, and the launcher
    kubelet.start(cluster.launcher("restarted", "--epochs", str(last)))  # waits for it
    assert kubelet.exit_code(LAUNCHER, 400) == 0, kubelet.log(LAUNCHER)
    log = cluster.log("restarted")
    # Ranks that have lost their launcher end at a commit point, also inside an epoch.
    starts = re.findall(r"from (\d+)(?: and [\d,]+ examples)?\n", log)
    assert [int(epoch) for epoch in starts] == [first, second]
    # A checkpoint is written before its epoch is shown, and the kill may fall between the two.
    assert set(range(1, last + 1)) - set(epochs(log)) <= {first, second}
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["epoch"] == newest_checkpoint(run) == last


def test_a_worker_pod_that_is_deleted_stops_all_ranks_first(cluster):
    kubelet, run = cluster.kubelet, cluster.runs / "evicted"
    kubelet.start(cluster.launcher("evicted", *ENDLESS))
    cluster.wait_for_epoch("evicted", 2)
    began = time.monotonic()
    kubelet.stop(WORKERS[1])
    took_s = time.monotonic() - began
    code, told = kubelet.exit_code(LAUNCHER, 60), kubelet.log(LAUNCHER)
    cluster.wait_for_no_rank(60)
    kubelet.start(cluster.workers[1])  # for the tests after this one
    kubelet.wait_ready(cluster.workers[1], 60)
    assert code == STOPPED, told
    assert kubelet.message(LAUNCHER).startswith("stopped by ")
    assert took_s < GRACE_S  # nothing had to be killed
    log = cluster.log("evicted")
    assert "stopped by " in log and newest_checkpoint(run) >= 2, log
    # In validation, which follows a checkpoint, ranks stop where they are.
    if step := re.search(r"stopped by .* at step (\d+), with ", log):
        assert max(run.glob("checkpoints/step-*")).name == f"step-{int(step[1]):08d}", log


@pytest.mark.parametrize(
    ("security", "told"),
    [({"runAsUser": 0}, "running as root"), ({"runAsUser": 1000}, "no ~/.ssh/authorized_keys")],
)
def test_a_worker_that_could_not_work_says_why(cluster, security, told):
    args = ["launch/worker.sh"]
    spec = {"containers": [{"name": PLAIN, "args": args}], "securityContext": security}
    cluster.kubelet.start({"metadata": {"name": PLAIN}, "spec": spec})
    assert cluster.kubelet.exit_code(PLAIN, 60) == 2
    assert told in cluster.kubelet.log(PLAIN)


def test_a_worker_whose_host_vanishes_ends_the_job_in_bounded_time(cluster):
    kubelet = cluster.kubelet
    kubelet.start(cluster.launcher("vanished", *ENDLESS))
    cluster.wait_for_epoch("vanished", 2)
    with cluster.network.cut_off(WORKERS[1]):  # nothing says goodbye: ssh must notice the silence
        assert kubelet.exit_code(LAUNCHER, 180) not in (0, 2), kubelet.log(LAUNCHER)
    cluster.wait_for_no_rank(120)


def test_tensorboard_of_our_manifests_shows_the_run(cluster):
    (deployment,) = [one for one in build(K8S / "common") if one["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]
    pod["metadata"]["name"] = TENSORBOARD
    cluster.kubelet.start(pod)
    fetch = "from urllib.request import urlopen as u; print(u('http://localhost:6006/data/runs').read())"
    deadline = time.monotonic() + 240
    shown = ""
    while "digits" not in shown:
        assert time.monotonic() < deadline, f"{shown}\n{cluster.kubelet.log(TENSORBOARD)}"
        time.sleep(1)
        shown = cluster.kubelet.execute(
            TENSORBOARD, "sh", "-c", f'python -c "{fetch}" 2>&1 || true'
        )


def test_a_launcher_without_the_operators_hostfile_starts_no_rank(cluster):
    launcher = cluster.launcher("nowhere")
    container = launcher["spec"]["containers"][0]
    container["volumeMounts"] = [m for m in container["volumeMounts"] if "/etc/mpi" not in str(m)]
    cluster.kubelet.start(launcher)
    assert cluster.kubelet.exit_code(LAUNCHER, 60) == 2
    assert "hostfile /etc/mpi/hostfile is missing" in cluster.kubelet.log(LAUNCHER)
    assert "hostfile /etc/mpi/hostfile is missing" in cluster.kubelet.message(LAUNCHER)
    assert not (cluster.runs / "nowhere").exists()


def test_a_worker_runs_without_privileges_on_a_file_system_that_it_cannot_change(cluster):
    def inside(command: str) -> str:
        return cluster.kubelet.execute(WORKERS[0], "sh", "-c", command).strip()

    assert inside("id -u; id -g") == "1000\n1000"
    status = dict(re.findall(r"^(\w+):\s+(\S+)", inside("cat /proc/1/status"), re.MULTILINE))
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd")} == {0}
    for place in ("/", "/etc", "/opt/lockstep", "/home/lockstep", "/home/lockstep/.ssh", "/data"):
        refused = inside(f"touch {place}/x 2>&1 || true")
        assert "Read-only file system" in refused, f"{place}: {refused}"
    assert inside("touch /runs/x /tmp/x && rm /runs/x /tmp/x && echo written") == "written"


def test_a_worker_listens_for_ssh_alone_and_takes_keys_alone(cluster):
    worker, other = WORKERS
    sockets = cluster.kubelet.execute(worker, "cat", "/proc/net/tcp", "/proc/net/tcp6")
    rows = [row.split() for row in sockets.splitlines()]
    assert {int(row[1].split(":")[1], 16) for row in rows if row[3] == LISTEN} == {2222}

    def ssh(*options: str) -> str:
        words = " ".join(options)
        return cluster.kubelet.execute(other, "sh", "-c", f"ssh {words} 2>&1 || true")

    assert ssh(worker, "hostname") == f"{worker}\n"
    cluster.kubelet.execute(other, "ssh-keygen", "-q", "-N", "", "-f", "/tmp/another")
    for options in (
        ("-o", "PubkeyAuthentication=no", worker),
        ("-o", "IdentitiesOnly=yes", "-i", "/tmp/another", worker),
        (f"root@{worker}",),
    ):
        assert "Permission denied (publickey)" in ssh(*options, "hostname")
    assert "forwarding failed" in ssh("-W", "localhost:2222", worker)


def test_the_image_holds_no_private_key_and_nothing_of_the_machine_that_built_it(image):
    config = json.loads(podman("image", "inspect", image))[0]
    assert config["Config"]["User"] == "1000:1000"
    assert not [one for one in config["Config"]["Env"] if re.match(r"(?i)pip|.*proxy", one)]
    root = Path(podman("image", "mount", image).strip())
    try:
        for place in ("etc", "home", "root", "opt/lockstep/launch", "var/lib", "run", "tmp"):
            for path in (root / place).rglob("*"):
                if path.is_file() and not path.is_symlink():
                    assert b"PRIVATE KEY-----" not in path.read_bytes()[:4096], path
        assert not (root / "etc/pip.conf").exists() or not (root / "etc/pip.conf").read_bytes()
    finally:
        podman("image", "unmount", image)
