"""What the MPI Operator (kubeflow/mpi-operator v0.8) makes of an MPIJob: a stand-in for rehearsals.

Pure functions from the dict of an MPIJob to dicts of Kubernetes objects. Written from the
operator's source (commit cbe4f8a, which has the fields of v0.8's CRD), named at each function;
expected/ holds objects derived from that source by hand, so that this is not its own test. Releases
0.8.0 and 0.8.2 made the same of our manifests on a real API server, but for what `version` tells
apart. Left out: owner references, gang scheduling, suspension, and MPI implementations
other than Open MPI. What the operator refuses is in launch/manifests.py.
"""

import base64
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

Object = dict[str, Any]

# pkg/apis/kubeflow/v2beta1/constants.go
LABEL = "training.kubeflow.org/"
CONFIG_DIRECTORY = "/etc/mpi"
ROOT_SSH = "/root/.ssh"
VERSION = "0.8.2"


def with_defaults(job: Object, namespace: str = "default") -> Object:
    """The MPIJob as the API server stores it in a namespace and the operator completes it.

    `default:` of the CRD, and pkg/apis/kubeflow/v2beta1/default.go.
    """
    job = deepcopy(job)
    job["metadata"].setdefault("namespace", namespace)
    spec = job["spec"]
    spec.setdefault("slotsPerWorker", 1)
    spec.setdefault("sshAuthMountPath", ROOT_SSH)
    spec.setdefault("mpiImplementation", "OpenMPI")
    spec.setdefault("launcherCreationPolicy", "AtStartup")
    spec.setdefault("runLauncherAsWorker", False)
    spec.setdefault("runPolicy", {}).setdefault("cleanPodPolicy", "None")
    replicas = spec.get("mpiReplicaSpecs", {})
    for role, count, restart in (("Launcher", 1, "OnFailure"), ("Worker", 0, "Never")):
        if role in replicas:
            replicas[role].setdefault("replicas", count)
            replicas[role].setdefault("restartPolicy", restart)
    return job


def service(job: Object) -> Object:
    """The headless Service that gives the pods of a job their names. newJobService."""
    selector = {LABEL + "operator-name": "mpi-operator", LABEL + "job-name": _name(job)}
    spec: Object = {"clusterIP": "None", "selector": selector}
    if job["spec"]["runLauncherAsWorker"]:  # ranks ask for its name before it is ready
        spec["publishNotReadyAddresses"] = True
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(job, _name(job)),
        "spec": spec,
    }


def config_map(job: Object, running: Sequence[int] = ()) -> Object:
    """The hostfile, and the script that lists the workers of these indices, which run.

    newConfigMap and updateDiscoverHostsInConfigMap.
    """
    slots = job["spec"]["slotsPerWorker"]
    count = job["spec"]["mpiReplicaSpecs"].get("Worker", {}).get("replicas", 0)
    hosts = [worker_name(job, index) for index in range(count)]
    # Sorted by name, as the operator does: worker-10 comes before worker-2.
    discovered = sorted(worker_name(job, index) for index in running)
    if job["spec"]["runLauncherAsWorker"]:
        hosts.insert(0, launcher_name(job))
        discovered.insert(0, launcher_name(job))
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(job, f"{_name(job)}-config"),
        "data": {
            "hostfile": "".join(f"{host_name(job, pod)} slots={slots}\n" for pod in hosts),
            "discover_hosts.sh": "#!/bin/sh\n"
            + "".join(f"echo {host_name(job, pod)}\n" for pod in discovered),
        },
    }


def ssh_secret(job: Object, private_key: bytes, public_key: bytes) -> Object:
    """The Secret with a key pair, that the operator would make itself. newSSHAuthSecret."""
    data = {"ssh-privatekey": private_key, "ssh-publickey": public_key}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/ssh-auth",
        "metadata": _metadata(job, f"{_name(job)}-ssh"),
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }


def worker(job: Object, index: int) -> Object:
    """The Pod of a worker. newWorker."""
    name, namespace = worker_name(job, index), job["metadata"]["namespace"]
    pod = _pod(job, "Worker", name)
    number = index + 1 if job["spec"]["runLauncherAsWorker"] else index
    pod["metadata"]["labels"][LABEL + "replica-index"] = str(number)
    search = f"{_name(job)}.{namespace}.svc.cluster.local"
    pod["spec"].setdefault("dnsConfig", {}).setdefault("searches", []).append(search)
    container = pod["spec"]["containers"][0]
    if not container.get("command") and not container.get("args"):
        container["command"] = ["/usr/sbin/sshd", "-De"]
    _add_ssh(job, pod["spec"])
    metadata = {"name": name, "namespace": namespace, **pod["metadata"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]}


def launcher(job: Object, version: str = VERSION) -> Object:
    """The Job of the launcher; its template is the pod. newLauncherJob, newLauncherPodTemplate.

    `version`: of the operator. 0.8.2, unlike 0.8.0, makes the next pod when the last has ended.
    """
    policy = job["spec"]["runPolicy"]
    passed_on = ("ttlSecondsAfterFinished", "activeDeadlineSeconds", "backoffLimit")
    template = _pod(job, "Launcher", launcher_name(job))
    if job["spec"]["runLauncherAsWorker"]:
        template["metadata"]["labels"][LABEL + "replica-index"] = "0"
    container = template["spec"]["containers"][0]
    added = {
        "OMPI_MCA_orte_keep_fqdn_hostnames": "true",
        "OMPI_MCA_orte_default_hostfile": f"{CONFIG_DIRECTORY}/hostfile",
        "OMPI_MCA_plm_rsh_args": "-o ConnectionAttempts=10",
        "OMPI_MCA_orte_set_default_slots": str(job["spec"]["slotsPerWorker"]),
    }
    if not job["spec"]["runLauncherAsWorker"]:  # no GPU of its host is for the launcher
        added |= {"NVIDIA_VISIBLE_DEVICES": "", "NVIDIA_DRIVER_CAPABILITIES": ""}
    container["env"] += [{"name": name, "value": value} for name, value in added.items()]
    _add_ssh(job, template["spec"])
    items = [
        {"key": "hostfile", "path": "hostfile", "mode": 0o444},
        {"key": "discover_hosts.sh", "path": "discover_hosts.sh", "mode": 0o555},
    ]
    config = {"name": f"{_name(job)}-config", "items": items}
    _mount(template["spec"], "mpi-job-config", CONFIG_DIRECTORY, {"configMap": config})
    spec = {key: policy[key] for key in passed_on if key in policy} | {"template": template}
    if version != "0.8.0":
        spec["podReplacementPolicy"] = "Failed"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(job, launcher_name(job)),
        "spec": spec,
    }


def worker_name(job: Object, index: int) -> str:
    """The name of a worker's pod, and its host name."""
    return f"{_name(job)}-worker-{index}"


def launcher_name(job: Object) -> str:
    """The name of the launcher's Job, and the host name of its pod."""
    return f"{_name(job)}-launcher"


def host_name(job: Object, pod: str) -> str:
    """How other pods call a pod of the job."""
    return f"{pod}.{_name(job)}.{job['metadata']['namespace']}.svc"


def _name(job: Object) -> str:
    return job["metadata"]["name"]


def _metadata(job: Object, name: str) -> Object:
    namespace = job["metadata"]["namespace"]
    return {"name": name, "namespace": namespace, "labels": {"app": _name(job)}}


def _pod(job: Object, role: str, host: str) -> Object:
    """What a launcher and a worker have in common, from the template of their role."""
    replicas = job["spec"]["mpiReplicaSpecs"][role]
    pod = deepcopy(replicas["template"])
    pod.setdefault("metadata", {}).setdefault("labels", {}).update(
        {
            LABEL + "operator-name": "mpi-operator",
            LABEL + "job-name": _name(job),
            LABEL + "job-role": role.lower(),
        }
    )
    spec = pod["spec"]
    spec |= {"hostname": host, "subdomain": _name(job), "restartPolicy": replicas["restartPolicy"]}
    if spec.get("hostNetwork"):
        spec["dnsPolicy"] = "ClusterFirstWithHostNet"
    environment = spec["containers"][0].setdefault("env", [])
    environment.append({"name": "K_MPI_JOB_ROLE", "value": role.lower()})
    return pod


def _add_ssh(job: Object, spec: Object) -> None:
    """setupSSHOnPod: the files, and their mode where root's ssh would refuse them otherwise."""
    items = [
        {"key": "ssh-privatekey", "path": "id_rsa"},
        {"key": "ssh-publickey", "path": "id_rsa.pub"},
        {"key": "ssh-publickey", "path": "authorized_keys"},
    ]
    secret = {"secretName": f"{_name(job)}-ssh", "items": items}
    path = job["spec"]["sshAuthMountPath"]
    if path == ROOT_SSH:
        secret["defaultMode"] = 0o600
    _mount(spec, "ssh-auth", path, {"secret": secret})


def _mount(spec: Object, name: str, path: str, source: Object) -> None:
    spec.setdefault("volumes", []).append({"name": name, **source})
    mounts = spec["containers"][0].setdefault("volumeMounts", [])
    mounts.append({"name": name, "mountPath": path})
