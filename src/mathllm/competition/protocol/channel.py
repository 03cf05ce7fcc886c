"""What both sides of the evaluation protocol must agree on beside the values themselves.

Knows the service's name, ports and channel options, and whether a process still lives.
Facts of the public kaggle_evaluation package, versions 0.3 to 1.4; see also messages.py.
"""

import os
import select
import sys

SERVICE = "kaggle_evaluation_client.KaggleEvaluationService"
METHOD = "Send"

# The package's clients up to 0.9 try 50051 and 60053…60062, those from 1.x on 50051 and
# 60053, 60063 … 60143. A server cannot know which will come, so it prefers the two ports
# that all of them try; after those come the older ones', which this competition has. Our
# own client tries them all.
PORTS = (50051, 60053, *range(60054, 60063), *range(60063, 60144, 10))

# Keepalive as the package has it: its clients ping every minute while a prediction runs, and
# a server that does not permit this cuts the connection after a few minutes of silence.
_CHANNEL = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
)
# By default two servers may share a port, and requests go to either.
SERVER_OPTIONS = (*_CHANNEL, ("grpc.so_reuseport", 0))
# A proxy set for the rest of the world has no business between two local processes; and a
# prediction whose server died is not sent again.
CLIENT_OPTIONS = (*_CHANNEL, ("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0))

# gRPC's own words for an exception in a handler; the package's gateway looks for them.
RAISED = "Exception calling application: "
NO_LISTENER = "No listener for {} was registered."

# Our gateway says in a header which process it is and whether its last problem has come,
# "<pid> more" or "<pid> last". Headers are no part of the protocol: others ignore it.
GATEWAY_HEADER = "mathllm-gateway"


class ProcessWatch:
    """Watches whether one process lives; unlike a look at its number, sees a dead child."""

    def __init__(self, pid: int):
        self.pid = pid
        self._handle: int | None = None
        self._gone = False
        if sys.platform == "linux":
            try:
                self._handle = os.pidfd_open(pid)
            except ProcessLookupError:
                self._gone = True
            except OSError:  # a kernel older than 5.3, or a sandbox without the call
                self._handle = None

    def gone(self) -> bool:
        """Whether the process has ended, reaped by its parent or not."""
        if not self._gone:
            self._gone = not (_running(self.pid) if self._handle is None else self._waiting())
            if self._gone:
                self.close()
        return self._gone

    def close(self) -> None:
        """Give the handle back."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _waiting(self) -> bool:
        """Linux makes the handle readable when the process ends."""
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        return not poll.poll(0)


def _running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
