"""The gateway's end of the wire: finds the server, asks it, and names what goes wrong.

Plays the client of Kaggle's evaluation package, with its retries, its deadlines and its kinds
of error, in the order in which it tells them apart.
"""

import enum
import os
import socket
import time
from collections.abc import Sequence
from typing import Any

import grpc

from mathllm import paths
from mathllm.competition.protocol import messages
from mathllm.competition.protocol.channel import (
    CLIENT_OPTIONS,
    GATEWAY_HEADER,
    LOCAL_HOST,
    METHOD,
    NO_LISTENER,
    RAISED,
    RERUN_HOST,
    SERVICE,
)
from mathllm.settings import CURRENT, EvaluationPackage, evaluation_package

RETRY_SECONDS = 0.1  # between two ports


class ErrorKind(enum.IntEnum):
    """How a run can fail; names and numbers as the competition's result.json has them."""

    UNSPECIFIED = 0
    SERVER_NEVER_STARTED = 1
    SERVER_CONNECTION_FAILED = 2
    SERVER_RAISED_EXCEPTION = 3
    SERVER_MISSING_ENDPOINT = 4
    GATEWAY_RAISED_EXCEPTION = 5
    INVALID_SUBMISSION = 6
    GRPC_DEADLINE_EXCEEDED = 7


class GatewayError(Exception):
    """The run is over: which kind of error, and what happened."""

    def __init__(self, kind: ErrorKind, details: str):
        super().__init__(f"{kind.name}: {details}")
        self.kind = kind
        self.details = details


class Client:
    """Calls the endpoints of one server. The first call waits for it to listen.

    Every port is tried in turn until one answers; then the client stays with it. `host` None
    is the competition's name for the server's container in a rerun, and this machine
    otherwise; `ports` None are those of the `package`. Seconds are wall clock:
    `startup_seconds` for the server to listen, `response_seconds` for each reply but the
    first, which has no deadline.
    """

    def __init__(
        self,
        host: str | None = None,
        ports: Sequence[int] | None = None,
        startup_seconds: float = CURRENT.startup_seconds,
        response_seconds: float = CURRENT.response_seconds,
        package: EvaluationPackage | None = None,
    ):
        self.port: int | None = None  # the server's, once it has answered
        self._package = package or evaluation_package(CURRENT.package_version)
        self._host = host or (RERUN_HOST if paths.is_rerun() else LOCAL_HOST)
        self._ports = tuple(ports or self._package.gateway_ports)
        self._startup_seconds = startup_seconds
        self._response_seconds = response_seconds
        self._channel: grpc.Channel | None = None
        self._host_was_found = False

    def send(self, name: str, *args: Any, last: bool = False) -> Any:
        """What endpoint `name` returns. `last` says that no further call will follow.

        Raises GatewayError, of the kind that the competition's own gateway would report.
        """
        request = messages.request(name, args)
        try:
            if self._channel is None:
                response = self._first(request, last)
            else:
                response = self._call(self._channel, request, last, self._response_seconds)
        except grpc.RpcError as error:
            raise self._explained(error, name) from None
        return messages.deserialize(response.payload)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _call(self, channel: grpc.Channel, request: Any, last: bool, timeout: float | None) -> Any:
        call = channel.unary_unary(
            f"/{SERVICE}/{METHOD}",
            request_serializer=messages.Request.SerializeToString,
            response_deserializer=messages.Response.FromString,
        )
        header = (GATEWAY_HEADER, f"{os.getpid()} {'last' if last else 'more'}")
        return call(request, timeout=timeout, metadata=(header,))

    def _first(self, request: Any, last: bool) -> Any:
        """Goes round the ports until a server answers; any other answer than nobody's counts."""
        deadline = time.monotonic() + self._startup_seconds
        while time.monotonic() < deadline:
            for port in self._ports:
                channel = grpc.insecure_channel(f"{self._host}:{port}", options=CLIENT_OPTIONS)
                try:
                    response = self._call(channel, request, last, timeout=None)
                except grpc.RpcError as error:
                    channel.close()
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        self.port = port
                        raise
                else:
                    self._channel, self.port = channel, port
                    return response
                self._look_up()
                time.sleep(RETRY_SECONDS)
        raise GatewayError(
            ErrorKind.SERVER_NEVER_STARTED,
            f"no server listened on {self._host} within {self._startup_seconds:g} s "
            f"(ports {', '.join(map(str, self._ports))}); see the kernel's own output",
        )

    def _look_up(self) -> None:
        """A server's container that is gone takes its name along."""
        try:
            socket.gethostbyname(self._host)
        except socket.gaierror as error:
            died = self._host_was_found and self._package.lost_host_is_connection
            raise GatewayError(
                ErrorKind.SERVER_CONNECTION_FAILED if died else ErrorKind.GATEWAY_RAISED_EXCEPTION,
                f"the host {self._host} {'is gone' if self._host_was_found else 'is unknown'}: "
                f"{error}",
            ) from None
        self._host_was_found = True

    def _explained(self, error: grpc.RpcError, name: str) -> GatewayError:
        details = error.details() or str(error.code())
        where = f"{self._host}:{self.port}"
        if NO_LISTENER.format(name) in details:
            return GatewayError(
                ErrorKind.SERVER_MISSING_ENDPOINT, f"the server at {where} has no {name}"
            )
        if RAISED in details:
            return GatewayError(ErrorKind.SERVER_RAISED_EXCEPTION, details.partition(RAISED)[2])
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return GatewayError(
                ErrorKind.GRPC_DEADLINE_EXCEEDED,
                f"no reply of {name} from {where} within {self._response_seconds:g} s",
            )
        return GatewayError(
            ErrorKind.SERVER_CONNECTION_FAILED, f"the server at {where} is gone: {details}"
        )
