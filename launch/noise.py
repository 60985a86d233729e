"""What TensorFlow's servers write to standard error at any log level, and nobody wants to read.

What they call an error is a worker that was lost, which the launcher says; all else comes as an
exception of Python too. What is fatal is shown.
"""

import re

# I0000 00:00:1795721874.088324   22904 grpc_server_lib.cc:466] Started server ...
NOTE = re.compile(rb"[IWE]\d{4} \d\d:\d\d:\d+\.\d+ +\d+ \S+\.(?:cc|h):\d+\] ")
HEADING = b"WARNING: All log messages before absl::InitializeLog()"
FOLLOWS = (
    b"Additional GRPC error information",
    b":UNKNOWN:Error received from peer",
    b"This could happen if the remote target has been disconnected",
)
OPENS = b"SessionOptions: "  # the last words of a note that goes on until an empty line


class Noise:
    """The lines of one process."""

    def __init__(self) -> None:
        self._goes_on = self._was_note = False

    def is_in(self, line: bytes) -> bool:
        """Whether the line is a note of TensorFlow's own; call it with every line."""
        if self._goes_on:
            self._goes_on = bool(line.strip())
            return True
        if self._was_note and line.startswith(FOLLOWS):
            return True
        self._was_note = bool(NOTE.match(line))
        self._goes_on = self._was_note and OPENS in line
        return self._was_note or line.startswith(HEADING)
