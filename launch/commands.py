"""The command line of mpirun, and the environment of ranks. Pure functions.

We never pass a name or a value through a shell. mpirun splits the options of ssh at blanks, so the
key is checked.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from app.doctor.hosts import BY_CONFIGURATION, Host, Ssh
from app.errors import UserError

# The part of the launcher's environment that ranks need; ssh passes none of it on.
FORWARDED = re.compile(
    r"(PATH|PYTHONPATH|LD_LIBRARY_PATH|LANG|LC_ALL|TZ|TMPDIR|XLA_FLAGS|NVIDIA_TF32_OVERRIDE"
    r"|(LOCKSTEP|TF|TFDS|KERAS|HOROVOD|NCCL|UCX|CUDA|CUDNN|CUBLAS|OMP|MKL|OPENBLAS|PYTHON)"
    r"_?[A-Z0-9_]*)"
)
# Not NVIDIA_VISIBLE_DEVICES: a container's runtime sets it, and it is true on one host only.
NOT_FORWARDED = {"LOCKSTEP_TERMINAL", "LOCKSTEP_TERMINATION_LOG"}  # exist on this host only
RANK = [sys.executable, "-P", "-m", "launch.rank"]
SAFE_PATH = re.compile(r"[A-Za-z0-9_./+@%=,-]+", re.ASCII)
SAFE_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:-]*", re.ASCII)
# If mpirun itself is ended; agents end their ranks before (launch/rank.py). A signal to the launch
# script goes to the ranks over their lines instead, and gives them longer (supervise.py).
TERM_TO_KILL_S = 15


class Placement(NamedTuple):
    """Where ranks start: hosts with slots, how to reach them, the network interface to use."""

    hosts: Sequence[Host]
    ssh: Ssh = BY_CONFIGURATION
    interface: str | None = None

    @property
    def ranks(self) -> int:
        """The number of ranks on all hosts."""
        return sum(host.slots for host in self.hosts)

    @property
    def listed(self) -> str:
        """`host1:4,host2:4`."""
        return ",".join(f"{host.name}:{host.slots}" for host in self.hosts)

    @property
    def host_of_rank(self) -> list[str]:
        """The host name of each rank: both launchers fill one host after the other."""
        return [host.name for host in self.hosts for _ in range(host.slots)]


def check_safe(identity: str | None, interface: str | None) -> None:
    """Raise UserError for a key file or an interface that is not one plain word."""
    if identity is not None and not SAFE_PATH.fullmatch(identity):
        raise UserError(
            f"--ssh-identity {identity!r}: mpirun accepts only letters, digits and _./+@%=,- "
            "in this path: make a link to the key and give that"
        )
    if interface is not None and not SAFE_INTERFACE.fullmatch(interface):
        raise UserError(f"--network-interface {interface!r} is not an interface name")


def check_gpus(environ: Mapping[str, str], hosts: Sequence[Host], own_name: str) -> None:
    """Raise UserError if CUDA_VISIBLE_DEVICES, which ranks on other hosts get too, names GPUs that
    only this host has: CUDA would find none there."""
    visible = environ.get("CUDA_VISIBLE_DEVICES", "")
    others = [host.name for host in hosts if host.name not in ("localhost", own_name)]
    if others and re.search("[A-Za-z]", visible):
        raise UserError(
            f"CUDA_VISIBLE_DEVICES={visible} names GPUs of this host, which {others[0]} does not "
            "have: give numbers such as 0,1, or unset it"
        )


def rank_environment(
    environ: Mapping[str, str], placement: Placement, arguments: Sequence[str], directory: str
) -> dict[str, str]:
    """The launcher's environment, plus what every rank needs to know."""
    chosen = {
        "TF_CPP_MIN_LOG_LEVEL": "3",  # or every rank prints TensorFlow's start-up notes
        "NCCL_DEBUG": "WARN",
        "HOROVOD_GLOO_TIMEOUT_SECONDS": "3600",  # we notice sooner, and say which rank is stuck
        **({"NCCL_SOCKET_IFNAME": placement.interface} if placement.interface else {}),
        **environ,
        "LOCKSTEP_ARGUMENTS": json.dumps(list(arguments)),
        "LOCKSTEP_DIRECTORY": directory,
    }
    chosen.pop("OMPI_MCA_orte_default_hostfile", None)  # we always name the hosts
    if not chosen.get("NVIDIA_VISIBLE_DEVICES"):  # of the MPI Operator, for the launcher pod only
        chosen.pop("NVIDIA_VISIBLE_DEVICES", None)
    return chosen


def forwarded(environ: Mapping[str, str]) -> list[str]:
    """The names of the variables that ranks on other hosts get."""
    return sorted(n for n in environ if FORWARDED.fullmatch(n) and n not in NOT_FORWARDED)


def mpi_command(
    placement: Placement, environ: Mapping[str, str], cores: int, is_root: bool
) -> list[str]:
    """How mpirun (Open MPI 4.1) starts ranks. `cores`: how many this host has."""
    command = ["mpirun", "--tag-output", "-np", str(placement.ranks), "-H", placement.listed]
    command += ["--allow-run-as-root"] if is_root else []
    # Ranks choose their cores themselves (app/distributed/devices.py).
    command += ["-bind-to", "none", "-map-by", "slot"]
    command += _mca("pml", "ob1") + _mca("btl", "^openib")
    command += _mca("odls_base_sigkill_timeout", str(TERM_TO_KILL_S))
    if max(host.slots for host in placement.hosts) > cores:
        # Ranks of Open MPI spin while they wait; they must let others compute.
        command += _mca("mpi_yield_when_idle", "1")
    if placement.interface:
        command += _mca("btl_tcp_if_include", placement.interface)
        command += _mca("oob_tcp_if_include", placement.interface)
    ssh = environ.get("OMPI_MCA_plm_rsh_args", "").split()  # the MPI Operator sets some
    ssh += ["-p", str(placement.ssh.port)] if placement.ssh.port else []
    ssh += ["-i", str(placement.ssh.identity)] if placement.ssh.identity else []
    command += _mca("plm_rsh_args", " ".join(ssh)) if ssh else []
    for name in forwarded(environ):
        command += ["-x", name]
    return [*command, *RANK]


def _mca(name: str, value: str) -> list[str]:
    return ["-mca", name, value]
