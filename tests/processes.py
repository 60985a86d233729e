"""Processes, as tests look at them."""

from launch.process import state


def has_ended(pid: int) -> bool:
    """Whether it is gone, or a zombie: one whose parent ended first is reaped by process 1, which
    in many containers never does so."""
    return state(pid) in ("", "Z")
