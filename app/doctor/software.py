"""The doctor on what is installed: TensorFlow, Horovod, GPUs, Open MPI and a real allreduce.

Only other processes import TensorFlow and Horovod, since an import may crash or hang.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from app.doctor.facts import gpu_devices, gpus_named
from app.doctor.probe import OK, PROBLEM, WARNING, Finished, Pending, Result, last_line, run, tail
from app.doctor.versions import MAKE_SETUP, REBUILD, numbers

IMPORT_TIMEOUT_S = 120.0
ALLREDUCE_TIMEOUT_S = 120.0
TOOL_TIMEOUT_S = 15.0
PROBES_TIMEOUT_S = IMPORT_TIMEOUT_S + 20.0  # plus the time to end one that hangs
MARK = "LOCKSTEP-PROBE "
NVIDIA_SMI = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]


TENSORFLOW_PROBE = """
import json, keras, tensorflow as tf
gpus = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
        for gpu in tf.config.list_physical_devices("GPU")]
facts = {"tensorflow": tf.__version__, "keras": keras.__version__, "gpus": gpus,
         "backend": keras.backend.backend(), "cuda": tf.test.is_built_with_cuda()}
print("\\n" + MARK + json.dumps(facts), flush=True)
"""
HOROVOD_PROBE = """
import json, horovod.tensorflow as hvd
built = {"gloo": hvd.gloo_built(), "MPI": hvd.mpi_built(), "NCCL": hvd.nccl_built(),
         "CUDA": hvd.cuda_built()}
print("\\n" + MARK + json.dumps({name: int(value) for name, value in built.items()}), flush=True)
"""
# The sums depend on both ranks. NCCL refuses two ranks on one GPU, so they use CPU cores there.
ALLREDUCE_RANK = """
import numpy, tensorflow as tf, horovod.tensorflow as hvd
hvd.init()
assert hvd.size() == 2, f"{hvd.size()} ranks joined instead of 2"
gpus = tf.config.list_physical_devices("GPU")
tf.config.set_visible_devices(gpus[hvd.local_rank()] if len(gpus) > 1 else [], "GPU")
for kind in ("float32", "int64", "float16"):
    mine = tf.cast(tf.range(1000) % 7 + 10 * hvd.rank(), kind)
    total = hvd.allreduce(mine, op=hvd.Sum, name="doctor." + kind).numpy()
    right = (numpy.arange(1000) % 7 * 2 + 10).astype(kind)
    assert (total == right).all(), f"wrong sum of {kind}: {total[:3]}... instead of {right[:3]}..."
print(f"rank {hvd.rank()} of 2: allreduce is right", flush=True)
"""


def probe(code: str) -> tuple[dict[str, Any] | None, Finished]:
    """Run code in another Python; the facts that it printed, or None, and how it ended."""
    environ = {"KERAS_BACKEND": "tensorflow", **os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    code = f"MARK = {MARK!r}\n{code}"
    finished = run([sys.executable, "-c", code], IMPORT_TIMEOUT_S, environ=environ)
    return marked(finished.out, MARK), finished


def marked(output: str, mark: str) -> dict[str, Any] | None:
    """The JSON object on the last line that begins with the mark, if it is complete."""
    lines = [line[len(mark) :] for line in output.splitlines() if line.startswith(mark)]
    try:
        facts = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return facts if isinstance(facts, dict) else None


def judge_tensorflow(facts: Mapping[str, Any] | None, finished: Finished) -> Result:
    """Whether TensorFlow and Keras can be imported and fit together."""
    if facts is None:
        found = f"cannot be imported: {finished.failure or 'no answer'}\n{finished.last_lines}"
        return Result(PROBLEM, "TensorFlow", found.rstrip(), MAKE_SETUP)
    found = f"TensorFlow {facts['tensorflow']} with Keras {facts['keras']} can be imported"
    if facts["backend"] != "tensorflow":
        found += f", but Keras' backend is {facts['backend']}"
        return Result(PROBLEM, "TensorFlow", found, "unset KERAS_BACKEND")
    return Result(OK, "TensorFlow", found)


def judge_horovod(facts: Mapping[str, Any] | None, finished: Finished) -> Result:
    """Whether Horovod can be imported, and over what it can communicate."""
    if facts is None:
        found = f"cannot be imported: {finished.failure or 'no answer'}\n{finished.last_lines}"
        return Result(PROBLEM, "Horovod", found.rstrip(), REBUILD)
    built = [name for name, value in facts.items() if value]
    missing = [name for name, value in facts.items() if not value]
    found = f"built with {', '.join(built) or 'nothing'}"
    found += f"; without {', '.join(missing)}" if missing else ""
    if facts["gloo"]:
        return Result(OK, "Horovod", found)
    if facts["MPI"]:
        advice = f"start ranks with horovodrun --mpi, or {REBUILD}"
        return Result(WARNING, "Horovod", found, advice)
    return Result(PROBLEM, "Horovod", found, REBUILD)


def judge_horovodrun(on_path: str | None, executable: str) -> Result:
    """The horovodrun on PATH must belong to this Python."""
    folder = os.path.dirname(executable)
    if on_path is None:
        found, advice = "not on PATH", f"PATH={folder}:$PATH, or use launch/local.sh"
        return Result(WARNING, "horovodrun", found, advice)
    if os.path.dirname(on_path) != folder:
        found = f"{on_path} does not belong to {executable}"
        return Result(WARNING, "horovodrun", found, f"PATH={folder}:$PATH")
    return Result(OK, "horovodrun", on_path)


def judge_gpus(
    devices: int, tensorflow: Mapping[str, Any] | None, horovod: Mapping[str, Any] | None
) -> list[Result]:
    """Whether the GPUs of a host are used. `devices`: how many the driver shows."""
    seen = len(tensorflow["gpus"]) if tensorflow else 0
    if max(devices, seen) == 0:
        return [Result(OK, "GPUs", "none: ranks compute on CPU cores")]
    results = []
    names = ", ".join(tensorflow["gpus"]) if tensorflow else ""
    if seen < devices and tensorflow:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        named = devices if visible is None else gpus_named(visible)
        found = f"TensorFlow sees {seen} of {devices}"
        found += "" if seen else ", so ranks compute on CPU cores"
        if seen >= min(named, devices):
            advice = f"unset CUDA_VISIBLE_DEVICES (it is '{visible}') to use all"
        elif not tensorflow["cuda"]:
            advice = "pip install 'tensorflow[and-cuda]' of the same version"
        else:
            advice = "LOCKSTEP_HOROVOD=gpu make setup installs CUDA's libraries; check the driver"
        results.append(Result(WARNING, "GPUs", found, advice))
    elif tensorflow:
        results.append(Result(OK, "GPUs", f"{seen}: {names}"))
    if horovod and not horovod["NCCL"]:
        found = f"{max(devices, seen)} GPU(s), but Horovod was built without NCCL: " + (
            "gradients go through host memory"
        )
        results.append(Result(WARNING, "GPUs", found, "LOCKSTEP_HOROVOD=gpu make setup"))
    return results


def count_gpus(directory: str = "/dev") -> int:
    """How many GPUs this host has, without TensorFlow; nvidia-smi counts those of WSL, which are
    not in /dev."""
    devices = gpu_devices(directory)
    if devices or shutil.which(NVIDIA_SMI[0]) is None:
        return devices
    return judge_nvidia_smi(run(NVIDIA_SMI, TOOL_TIMEOUT_S), 0)[0]


def judge_nvidia_smi(finished: Finished, devices: int) -> tuple[int, list[Result]]:
    """(GPUs that the driver shows, results), from `nvidia-smi --query-gpu=...`."""
    if finished.failure is None:
        rows = [line.strip() for line in finished.out.splitlines() if line.strip()]
        found = "; ".join(f"{row} MiB" for row in rows) or "no GPU"
        return len(rows), [Result(OK, "nvidia-smi", found)]
    if not devices:
        return 0, []  # no GPU here, so nvidia-smi is not missed
    found = f"{finished.failure} {last_line(finished.last_lines)}".strip()
    advice = "check the NVIDIA driver (in a container: --gpus all)"
    return devices, [Result(WARNING, "nvidia-smi", found, advice)]


def judge_mpi(finished: Finished, horovod: Mapping[str, Any] | None) -> Result:
    """Lockstep uses Horovod and the MPI Operator with Open MPI 4.1."""
    built = bool(horovod and horovod["MPI"])
    advice = "install Open MPI 4.1 (Debian 12: apt-get install openmpi-bin libopenmpi-dev)"
    if finished.failure:
        if built:
            found = f"{finished.failure}, though Horovod was built with MPI"
            return Result(WARNING, "Open MPI", found, advice)
        return Result(OK, "Open MPI", f"{finished.failure}; ranks communicate over gloo")
    first = (finished.out.strip() or finished.err.strip()).partition("\n")[0]
    version = re.search(r"Open ?(?:MPI|RTE)\)? +v?(\d[\d.]*)", first)
    if not version:
        return Result(WARNING, "Open MPI", f"mpirun is another MPI: {last_line(first)}", advice)
    if numbers(version[1])[:2] != (4, 1):
        return Result(WARNING, "Open MPI", f"{version[1]}, but Lockstep is tested with 4.1", advice)
    note = "" if built or horovod is None else "; Horovod was built without MPI and uses gloo"
    return Result(OK, "Open MPI", version[1] + note)


def allreduce_command(transport: str, cores: int) -> list[str]:
    """How horovodrun starts two local ranks over "gloo" or "mpi"."""
    options = [f"--{transport}"]
    if transport == "mpi" and cores < 2:
        options.append("--mpi-args=--oversubscribe --mca mpi_yield_when_idle 1")
    launcher = [sys.executable, "-m", "horovod.runner.launch", "-np", "2", *options]
    return [*launcher, sys.executable, "-c", ALLREDUCE_RANK]


def judge_allreduce(transport: str, finished: Finished) -> Result:
    """Both ranks must have reported correct sums."""
    name = f"allreduce, {transport}"
    said = [f"rank {rank} of 2: allreduce is right" in finished.out for rank in (0, 1)]
    if finished.failure is None and all(said):
        return Result(OK, name, "2 local ranks sum float32, int64 and float16 correctly")
    found = f"2 local ranks failed: {finished.failure or 'a rank said nothing'}"
    advice = "see the output; after a crash without a message, see 'host name'; else " + REBUILD
    output = words_of_ranks(finished.err) or finished.last_lines
    return Result(PROBLEM, name, f"{found}\n{output}".rstrip(), advice)


def words_of_ranks(output: str) -> str:
    """The end of what each of the two ranks printed, without the launcher's own traceback.

    gloo puts `[RANK]<stderr>:` before a rank's line, MPI `[JOB,RANK]<stderr>:`.
    """
    said = re.findall(r"^\[(?:\d+,)?(\d+)\]<std(?:out|err)>:(.*)", output, re.MULTILINE)
    return "\n".join(
        f"rank {rank}: {line}"
        for rank in ("0", "1")
        for line in tail("\n".join(words for who, words in said if who == rank)).splitlines()[-7:]
    )


class Probes(NamedTuple):
    """Imports of TensorFlow and Horovod, both running."""

    tensorflow: Pending
    horovod: Pending


def start_probes() -> Probes:
    """Begin to import TensorFlow and Horovod, each in its own process."""
    return Probes(Pending(probe, TENSORFLOW_PROBE), Pending(probe, HOROVOD_PROBE))


def check_imports(probes: Probes, devices: int) -> list[Result]:
    """TensorFlow, Horovod, GPUs and MPI: what really works here. `devices`: GPUs in /dev."""
    devices, smi = judge_nvidia_smi(run(NVIDIA_SMI, TOOL_TIMEOUT_S), devices)
    mpirun = run(["mpirun", "--version"], TOOL_TIMEOUT_S)
    tensorflow, tensorflow_ended = probes.tensorflow.result(PROBES_TIMEOUT_S)
    horovod, horovod_ended = probes.horovod.result(PROBES_TIMEOUT_S)
    return [
        judge_tensorflow(tensorflow, tensorflow_ended),
        judge_horovod(horovod, horovod_ended),
        *([judge_horovodrun(shutil.which("horovodrun"), sys.executable)] if horovod else []),
        judge_mpi(mpirun, horovod),
        *smi,
        *judge_gpus(devices, tensorflow, horovod),
    ]


def check_allreduce(probes: Probes, cores: int) -> list[Result]:
    """An allreduce over gloo, and over MPI if Horovod and this host have it."""
    horovod, _ = probes.horovod.result(PROBES_TIMEOUT_S)
    if horovod is None:
        return []  # reported as 'Horovod' already
    transports = ["gloo"] if horovod["gloo"] else []
    if horovod["MPI"] and shutil.which("mpirun"):
        transports.append("mpi")
    # The MPI Operator's hostfile names other hosts; a timeline would overwrite the user's.
    others = ("OMPI_MCA_orte_default_hostfile", "HOROVOD_TIMELINE")
    environ = {name: value for name, value in os.environ.items() if name not in others}
    environ.update(TF_CPP_MIN_LOG_LEVEL="3", TF_FORCE_GPU_ALLOW_GROWTH="true")
    results = []
    for transport in transports:
        command = allreduce_command(transport, cores)
        results.append(judge_allreduce(transport, run(command, ALLREDUCE_TIMEOUT_S, "", environ)))
    return results
