"""Does the installed Horovod load and reduce correctly? Starts two ranks of itself over gloo."""

import os
import socket
import subprocess
import sys


def check_rank() -> None:
    """On each rank: a sum whose result depends on both."""
    import horovod.tensorflow as hvd
    import tensorflow as tf

    hvd.init()
    assert hvd.size() == 2, hvd.size()
    mine = tf.constant([1.5, 2.0]) * (hvd.rank() + 1)
    total = hvd.allreduce(mine, op=hvd.Sum, name="check").numpy().tolist()
    assert total == [4.5, 6.0], total
    print(f"rank {hvd.rank()} of 2: allreduce is right; NCCL {hvd.nccl_built()}", flush=True)


if __name__ == "__main__":
    if "HOROVOD_RANK" in os.environ:
        check_rank()
    else:
        try:
            socket.getaddrinfo(socket.gethostname(), None)
        except OSError:
            sys.exit(f"add the name of this host, {socket.gethostname()}, to /etc/hosts")
        horovodrun = os.path.join(os.path.dirname(sys.executable), "horovodrun")
        command = [horovodrun, "-np", "2", "--gloo", sys.executable, __file__]
        sys.exit(subprocess.run(command, timeout=180).returncode)
