"""What both sides of the evaluation protocol must agree on beside the values themselves.

Facts of the public kaggle_evaluation package, versions 0.9.0 and 1.4.0; see also messages.py.
"""

import json
import os
import select
import sys

SERVICE = "kaggle_evaluation_client.KaggleEvaluationService"
METHOD = "Send"

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
# A call that finds nobody is made five times within a second. A proxy set for the rest of the
# world has no business between two local processes.
_RETRY = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 1,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
CLIENT_OPTIONS = (
    *_CHANNEL,
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config", json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": _RETRY}]})),
)

# gRPC's own words for an exception in a handler; the package's gateway looks for them.
RAISED = "Exception calling application: "
NO_LISTENER = "No listener for {} was registered."
RERUN_HOST = "inference_server"  # the server's name in a rerun, where it is another container
LOCAL_HOST = "localhost"

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
