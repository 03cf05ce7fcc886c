"""The kernel's end of the wire: takes a port, answers calls, and knows when to end.

Plays the server of Kaggle's evaluation package and refuses what that refuses. Knows nothing of
problems or answers, and imports neither polars nor pandas, so that a kernel listens at once.
"""

import atexit
import enum
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from mathllm import paths
from mathllm.competition.protocol import messages
from mathllm.competition.protocol.channel import (
    GATEWAY_HEADER,
    LOCAL_HOST,
    METHOD,
    NO_LISTENER,
    RAISED,
    SERVICE,
    ProcessWatch,
)
from mathllm.competition.protocol.endpoints import EndpointThread, bind, named_endpoints
from mathllm.errors import UserError
from mathllm.settings import CURRENT, EvaluationPackage, evaluation_package

POLL_SECONDS = 0.1
LINGER_SECONDS = 10.0  # for someone's SIGTERM, once the gateway has got all it wanted
STOP_SECONDS = 5.0  # for gRPC's own threads to end
DETAIL_BYTES = 2000  # of an exception's message; gRPC drops headers of more than 8 kB
LOOPBACK = ("ipv4:127.", "ipv6:[::1]", "ipv6:%5B::1%5D")

logger = logging.getLogger(__name__)
_imported = time.monotonic()


class GatewayGoneError(UserError):
    """The gateway that was being served ended before its last problem, or never called."""


class Ending(enum.Enum):
    """Why `serve` returned."""

    STOPPED = "stopped"
    SIGTERM = "ended by SIGTERM"
    DONE = "the gateway is done"


class InferenceServer:
    """Serves functions, each as an endpoint of its own name, one call at a time.

    The first free of `ports` is taken at once; None are those of the `package`, the version
    that is played. `host` None means loopback, and every interface on Kaggle itself, where
    the gateway is another machine. Raises EndpointError for what the package takes for no
    endpoint, and PortError if all ports are taken.
    """

    def __init__(
        self,
        *endpoints: Callable[..., Any],
        ports: Sequence[int] | None = None,
        host: str | None = None,
        package: EvaluationPackage | None = None,
    ):
        self.last_error: BaseException | None = None  # that an endpoint raised
        self._package = package or evaluation_package(CURRENT.package_version)
        self._endpoints = named_endpoints(endpoints, self._package)
        self._host = host or ("[::]" if paths.on_kaggle() else "127.0.0.1")
        self._worker = EndpointThread()
        self._server: grpc.Server | None
        self._server, self.port = bind(
            self._handler(), self._worker, self._host, ports or self._package.server_ports
        )
        self._started = False
        self._ending: Ending | None = None
        self._caller: tuple[int, bool] | None = None  # process of our gateway, was it the last
        self._answered = 0
        self._failed = False

    def start(self) -> int:
        """Listen in the background and return the port."""
        if not self._started:
            self._started = True
            self._server.start()
            atexit.register(self._abandon)
        return self.port

    def serve(
        self,
        linger_seconds: float = LINGER_SECONDS,
        on_listening: Callable[[int], object] | None = None,
    ) -> Ending | None:
        """Listen; in a rerun until `stop` (from another thread), SIGTERM, or the gateway's end.

        Outside of a rerun this returns at once, and the server goes on in the background.
        `on_listening` gets the port, once calls are taken and SIGTERM ends cleanly.
        The competition's own gateway never says that it is done, so that this waits for
        ever and is ended from outside. Ours tells its process and which call is its last:
        when the process ends after that, `serve` returns DONE, `linger_seconds` later. When
        it ends before, GatewayGoneError is raised. Exceptions of signal handlers pass through.
        """
        self.start()
        if not paths.is_rerun():
            return None
        self._ending = None
        gateway = done_since = None
        try:
            with self._sigterm_ends():
                if on_listening is not None:
                    on_listening(self.port)
                while self._ending is None:
                    time.sleep(POLL_SECONDS)
                    caller = self._caller
                    if caller and (gateway is None or gateway.pid != caller[0]):
                        gateway, done_since = ProcessWatch(caller[0]), None
                    if gateway is not None and gateway.gone():
                        done_since = done_since or self._gateway_ended(gateway.pid)
                        if time.monotonic() - done_since >= linger_seconds:
                            self._ending = Ending.DONE
            return self._ending
        except GatewayGoneError:
            self._failed = True
            raise
        finally:
            if gateway is not None:
                gateway.close()
            self.stop()

    def stop(self) -> None:
        """Give the port back and end `serve`. A call that runs goes on, its caller is told."""
        self._ending = self._ending or Ending.STOPPED
        server, self._server = self._server, None
        if server is not None:
            server.stop(grace=None).wait(STOP_SECONDS)
            self._worker.shutdown()
            if not self._worker.busy:
                atexit.unregister(self._abandon)

    def run_local_gateway(
        self, data_paths: tuple[str | Path, ...] | None = None, **options: Any
    ) -> None:
        """Play the gateway in this process, on test.csv or on the one file of `data_paths`.

        submission.parquet appears in the working directory; `options` go to `run_gateway`.
        Warns where a rerun's gateway would have given up waiting by now. Raises GatewayError,
        from what an endpoint raised; a UserError of an endpoint as it is.
        """
        from mathllm.competition.protocol.client import Client, GatewayError
        from mathllm.competition.protocol.gateway import run_gateway

        if (late := time.monotonic() - _imported) > CURRENT.startup_seconds:
            warnings.warn(
                f"{late:.0f} s passed before the server started: in a rerun the gateway waits "
                f"{CURRENT.startup_seconds:.0f} s; start it before anything slow",
                RuntimeWarning,
                stacklevel=2,
            )
        problems = (
            Path(data_paths[0]) if data_paths else paths.find_competition_file(CURRENT.test_file)
        )
        output_dir = options.pop("output_dir", None) or paths.working_dir()
        rules = self._package
        client = Client(
            host=LOCAL_HOST,
            ports=(self.start(),),
            response_seconds=rules.local_response_seconds or CURRENT.response_seconds,
            package=rules,
        )
        try:
            run_gateway(problems, output_dir, client, **options)
        except GatewayError as error:
            if isinstance(self.last_error, UserError):
                raise self.last_error from None
            raise error from self.last_error
        finally:
            client.close()
            self.stop()

    def _handler(self) -> grpc.GenericRpcHandler:
        method = grpc.unary_unary_rpc_method_handler(
            self._answer,
            request_deserializer=messages.Request.FromString,
            response_serializer=messages.Response.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: method})

    def _answer(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._note_gateway(context)
        try:
            if request.name not in self._endpoints:
                raise NotImplementedError(NO_LISTENER.format(request.name))
            args = [messages.deserialize(arg) for arg in request.args]
            kwargs = {name: messages.deserialize(arg) for name, arg in request.kwargs.items()}
            reply = messages.serialize(self._endpoints[request.name](*args, **kwargs))
        # A panic in a Rust package and SystemExit are no Exceptions, and would leave the
        # caller waiting for ever.
        except BaseException as error:
            self.last_error = error
            if not isinstance(error, UserError):
                logger.exception("endpoint %s raised", request.name)
            text = f"{type(error).__name__}: {error}".encode()[:DETAIL_BYTES]
            context.abort(grpc.StatusCode.UNKNOWN, RAISED + text.decode(errors="ignore"))
        self._answered += 1
        return messages.Response(payload=reply)

    def _note_gateway(self, context: grpc.ServicerContext) -> None:
        """Who calls, if it says so and runs on this machine."""
        header = dict(context.invocation_metadata()).get(GATEWAY_HEADER)
        if header is None or not context.peer().startswith(LOOPBACK):
            return
        pid, _, which = header.partition(" ")
        if pid.isdigit():
            self._caller = int(pid), which == "last"

    def _gateway_ended(self, pid: int) -> float:
        """The time it was seen, if nothing more was to come. Raises GatewayGoneError if not."""
        if self._caller == (pid, True) and not self._worker.busy:
            return time.monotonic()
        raise GatewayGoneError(
            f"the gateway (process {pid}) ended after {self._answered} answers, "
            "before its last problem; see its own output"
        )

    @contextmanager
    def _sigterm_ends(self) -> Iterator[None]:
        """SIGTERM ends the wait, unless the caller has a handler of its own."""
        ours = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        )
        if ours:
            signal.signal(signal.SIGTERM, self._on_sigterm)
        try:
            yield
        finally:
            if ours:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _on_sigterm(self, *_: Any) -> None:
        self._ending = Ending.SIGTERM  # no lock here: the main thread might hold it

    def _abandon(self) -> None:
        """At the process's exit: leave a call that still runs behind instead of waiting.

        Python ends by freezing such a thread, and native code in it may abort the process.
        """
        if self._worker.busy:
            print("a prediction was still running and was abandoned", file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
            # last_type: Python showed an exception that nobody caught.
            os._exit(1 if self._failed or hasattr(sys, "last_type") else 0)
