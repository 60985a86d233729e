"""Which lines of TensorFlow's servers are noise."""

from launch.noise import Noise

TEXT = b"""WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795721874.088324   22904 grpc_server_lib.cc:466] Started server with target: grpc://
I0000 00:00:1795721874.918803   23088 eager_service_impl.cc:355] SessionOptions: device_count {
  key: "CPU"
}
allow_soft_placement: true

error: worker 0: port 1 of h is taken
W0000 00:00:1795721969.334674   23199 grpc_worker_service.cc:536] RecvTensor cancelled for -45
Additional GRPC error information from remote target /job:worker/replica:0/task:0 while
:UNKNOWN:Error received from peer  {created_time:"2026-11-26T20:46:55.667943731+00:00"}
E0000 00:00:1795721969.334674   23199 x.h:1] Failed to register function remotely
This could happen if the remote target has been disconnected from the client.
F0000 00:00:1795721969.334674   23199 x.cc:1] Check failed

Additional GRPC error information that belongs to an error
Traceback (most recent call last):
"""


def test_only_notes_are_left_out():
    noise = Noise()
    told = [line for line in TEXT.splitlines(keepends=True) if not noise.is_in(line)]
    assert [line.split()[0] for line in told if line.strip()] == [
        b"error:", b"F0000", b"Additional", b"Traceback",
    ]  # fmt: skip
