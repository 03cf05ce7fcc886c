"""The kernel's end of the wire: takes a port, answers calls, and knows when to end.

Knows ports, calls and whether its gateway lives. Knows nothing of problems or answers, and
imports neither polars nor pandas, so that a kernel listens at once.
"""

import atexit
import enum
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from mathllm import paths
from mathllm.competition.protocol import messages
from mathllm.competition.protocol.channel import (
    GATEWAY_HEADER,
    METHOD,
    NO_LISTENER,
    PORTS,
    RAISED,
    SERVER_OPTIONS,
    SERVICE,
    ProcessWatch,
)
from mathllm.errors import PortError, UserError

POLL_SECONDS = 0.1
LINGER_SECONDS = 10.0  # for someone's SIGTERM, once the gateway has got all it wanted
DETAIL_BYTES = 2000  # of an exception's message; gRPC drops headers of more than 8 kB
LOOPBACK = ("ipv4:127.", "ipv6:[::1]", "ipv6:%5B::1%5D")

logger = logging.getLogger(__name__)


class GatewayGoneError(UserError):
    """The gateway that was being served ended before its last problem, or never called."""


class Ending(enum.Enum):
    """Why `serve` returned."""

    STOPPED = "stopped"
    SIGTERM = "ended by SIGTERM"
    DONE = "the gateway is done"


class InferenceServer:
    """Serves functions, each as an endpoint of its own name, one call at a time.

    `ports` are tried in order. `host` None means loopback, and every interface on Kaggle
    itself, where the gateway is another machine. Nothing is bound before `start`.
    """

    def __init__(
        self,
        *endpoints: Callable[..., Any],
        ports: Sequence[int] = PORTS,
        host: str | None = None,
    ):
        self.port: int | None = None
        self.last_error: BaseException | None = None  # that an endpoint raised
        self._endpoints = {endpoint.__name__: endpoint for endpoint in endpoints}
        self._ports = tuple(ports)
        self._host = host or ("[::]" if paths.on_kaggle() else "127.0.0.1")
        self._worker: _Worker | None = None
        self._server: grpc.Server | None = None
        self._ending: Ending | None = None
        self._caller: tuple[int, bool] | None = None  # process of our gateway, was it the last
        self._answered = 0
        self._last_seen = 0.0  # time.monotonic() of the latest call's begin or end
        self._failed = False

    def start(self) -> int:
        """Listen in the background and return the port. Raises PortError if all are taken."""
        if self._server is None:
            worker = _Worker()
            self._server, self.port = _bind(self._handler(), worker, self._host, self._ports)
            self._worker, self._caller = worker, None
            self._last_seen = time.monotonic()
            self._server.start()
            atexit.register(self._abandon)
        return self.port

    def serve(
        self,
        idle_seconds: float | None = None,
        watch_pid: int | None = None,
        linger_seconds: float = LINGER_SECONDS,
        on_listening: Callable[[int], object] | None = None,
    ) -> Ending:
        """Listen until `stop` (from another thread), SIGTERM, or the gateway's end.

        `on_listening` gets the port, once calls are taken and SIGTERM ends cleanly.
        The competition's own gateway never says that it is done, so that this waits for
        ever and is ended from outside. Ours tells its process and which call is its last:
        when the process ends after that, `serve` returns DONE, `linger_seconds` later. When
        it ends before, GatewayGoneError is raised; so it is when no call came for
        `idle_seconds`. `watch_pid` is the gateway's process, if it is known before the
        first call. Exceptions of signal handlers pass through.
        """
        self.start()
        self._ending = None
        gateway = None if watch_pid is None else ProcessWatch(watch_pid)
        done_since = None
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
                    elif idle_seconds is not None and self._idle_for() >= idle_seconds:
                        raise GatewayGoneError(
                            f"no call came for {idle_seconds:g} s, after {self._answered} "
                            "answers; see the gateway's own output"
                        )
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
            server.stop(grace=None).wait()
            self._worker.shutdown()
            if not self._worker.busy:
                atexit.unregister(self._abandon)

    def run_local_gateway(
        self, data_paths: tuple[str | Path, ...] | None = None, **options: Any
    ) -> None:
        """Play the gateway in this process, on test.csv or on the one file of `data_paths`.

        submission.parquet appears in the working directory; `options` go to `run_gateway`.
        Raises GatewayError, from what an endpoint raised; a UserError of an endpoint as it is.
        """
        from mathllm.competition.protocol.client import Client, GatewayError
        from mathllm.competition.protocol.gateway import run_gateway
        from mathllm.settings import CURRENT

        problems = (
            Path(data_paths[0]) if data_paths else paths.find_competition_file(CURRENT.test_file)
        )
        output_dir = options.pop("output_dir", None) or paths.working_dir()
        client = Client(ports=(self.start(),))
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
        self._last_seen = time.monotonic()
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
        self._last_seen = time.monotonic()
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

    def _idle_for(self) -> float:
        return 0.0 if self._worker.busy else time.monotonic() - self._last_seen

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


class _Worker(futures.Executor):
    """One thread, as the protocol's servers have. Unlike ThreadPoolExecutor's it is a daemon:
    Python would wait at its exit for a prediction that nobody wants any more."""

    def __init__(self) -> None:
        self.busy = False
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="endpoints", daemon=True).start()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future:
        future: futures.Future[Any] = futures.Future()
        self._jobs.put((future, function, args, kwargs))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, function, args, kwargs = job
            if not future.set_running_or_notify_cancel():
                continue
            self.busy = True
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:  # the future's owner decides, as in any executor
                future.set_exception(error)
            finally:
                self.busy = False


def _bind(
    handler: grpc.GenericRpcHandler, worker: _Worker, host: str, ports: Sequence[int]
) -> tuple[grpc.Server, int]:
    """A server, not yet started, that has the first free port."""
    for port in ports:
        server = grpc.server(worker, options=SERVER_OPTIONS)
        try:
            bound = server.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            continue
        if bound == port:
            server.add_generic_rpc_handlers((handler,))
            return server, port
    raise PortError(
        f"no port is free on {host}: tried {', '.join(map(str, ports))}\n"
        "end what uses one of them (ss -ltnp shows it), or run in a network namespace"
    )
