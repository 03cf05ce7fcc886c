"""What may be an endpoint, the thread that calls endpoints, and the port they are reached at."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from types import FunctionType, MethodType
from typing import Any

import grpc

from mathllm.competition.protocol.channel import SERVER_OPTIONS
from mathllm.errors import EndpointError, PortError
from mathllm.settings import CURRENT, EvaluationPackage


def named_endpoints(
    endpoints: Sequence[Callable[..., Any]], package: EvaluationPackage
) -> dict[str, Callable[..., Any]]:
    """Name -> endpoint, as the package takes them. Raises EndpointError for what it refuses."""
    wanted = "a function made by def" + (", or a bound method" if package.takes_methods else "")
    mend = f"version {package.version} of {CURRENT.package} takes {wanted}"
    if not endpoints:
        raise EndpointError(f"no endpoint to serve: {mend}")
    named: dict[str, Callable[..., Any]] = {}
    for endpoint in endpoints:
        method = package.takes_methods and isinstance(endpoint, MethodType)
        if not method and not isinstance(endpoint, FunctionType):
            raise EndpointError(f"{type(endpoint).__name__} is no endpoint: {mend}")
        name = endpoint.__name__
        if name == "<lambda>":
            raise EndpointError(f"a lambda has no name to be called by: {mend}")
        if method:
            if name in named:
                raise EndpointError(f"two endpoints have the name {name}: rename one of them")
            named[f"{type(endpoint.__self__).__name__}.{name}"] = endpoint
        named[name] = endpoint
    return named


class EndpointThread(futures.Executor):
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


def bind(
    handler: grpc.GenericRpcHandler, worker: EndpointThread, host: str, ports: Sequence[int]
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
