"""The gateway's end of the wire: finds the server, asks it, and names what goes wrong.

Knows ports, connections and the kinds of error. Knows nothing of problems, files or scores.
"""

import enum
import os
import socket
import time
from collections.abc import Sequence
from typing import Any

import grpc

from mathllm.competition.protocol import messages
from mathllm.competition.protocol.channel import (
    CLIENT_OPTIONS,
    GATEWAY_HEADER,
    METHOD,
    NO_LISTENER,
    PORTS,
    RAISED,
    SERVICE,
)
from mathllm.settings import CURRENT

RETRY_SECONDS = 0.2  # between two rounds over all ports
CONNECT_SECONDS = 5.0  # for something that accepts connections to prove that it speaks gRPC


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

    Every port is tried in turn until one answers; then the client stays with it. Seconds are
    wall clock: `startup_seconds` for the server to listen, `response_seconds` for one reply.
    """

    def __init__(
        self,
        host: str = "localhost",
        ports: Sequence[int] = PORTS,
        startup_seconds: float = CURRENT.startup_seconds,
        response_seconds: float = CURRENT.response_seconds,
        series_format: messages.SeriesFormat = CURRENT.series_format,
    ):
        self.port: int | None = None  # the server's, once it has answered
        self._host = host
        self._ports = tuple(ports)
        self._startup_seconds = startup_seconds
        self._response_seconds = response_seconds
        self._series_format = series_format
        self._channel: grpc.Channel | None = None

    def send(self, name: str, *args: Any, last: bool = False) -> Any:
        """What endpoint `name` returns. `last` says that no further call will follow.

        Raises GatewayError, of the kind that the competition's own gateway would report.
        """
        request = messages.request(name, args, self._series_format)
        try:
            if self._channel is None:
                response = self._first(request, last)
            else:
                response = self._call(self._channel, request, last)
        except grpc.RpcError as error:
            raise self._explained(error, name) from None
        try:
            return messages.deserialize(response.payload)
        except Exception as error:
            raise GatewayError(
                ErrorKind.INVALID_SUBMISSION, f"the reply of {name} cannot be read: {error}"
            ) from error

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _call(self, channel: grpc.Channel, request: Any, last: bool) -> Any:
        call = channel.unary_unary(
            f"/{SERVICE}/{METHOD}",
            request_serializer=messages.Request.SerializeToString,
            response_deserializer=messages.Response.FromString,
        )
        header = (GATEWAY_HEADER, f"{os.getpid()} {'last' if last else 'more'}")
        return call(request, timeout=self._response_seconds, metadata=(header,))

    def _first(self, request: Any, last: bool) -> Any:
        """Goes round the ports until a server of this service answers."""
        deadline = time.monotonic() + self._startup_seconds
        while True:
            for port in self._ports:
                channel = self._connect(port)
                if channel is None:
                    continue
                try:
                    response = self._call(channel, request, last)
                except grpc.RpcError as error:
                    channel.close()
                    # Some other gRPC service has that port. (One that does not speak gRPC
                    # was refused above, and a server that dies now has died in its work.)
                    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                        continue
                    self.port = port
                    raise
                self._channel, self.port = channel, port
                return response
            if time.monotonic() >= deadline:
                raise GatewayError(
                    ErrorKind.SERVER_NEVER_STARTED,
                    f"no server listened on {self._host} within {self._startup_seconds:g} s "
                    f"(ports {', '.join(map(str, self._ports))}); see the kernel's own output",
                )
            time.sleep(RETRY_SECONDS)

    def _connect(self, port: int) -> grpc.Channel | None:
        """A channel that is ready, or None if nothing there speaks gRPC."""
        try:
            # gRPC alone would try a closed port again and again until its own deadline.
            socket.create_connection((self._host, port), CONNECT_SECONDS).close()
        except OSError:
            return None
        channel = grpc.insecure_channel(f"{self._host}:{port}", options=CLIENT_OPTIONS)
        try:
            grpc.channel_ready_future(channel).result(CONNECT_SECONDS)
        except grpc.FutureTimeoutError:
            channel.close()
            return None
        return channel

    def _explained(self, error: grpc.RpcError, name: str) -> GatewayError:
        details = error.details() or str(error.code())
        where = f"{self._host}:{self.port}"
        if NO_LISTENER.format(name) in details:
            return GatewayError(
                ErrorKind.SERVER_MISSING_ENDPOINT, f"the server at {where} has no {name}"
            )
        if details.startswith(RAISED):
            return GatewayError(ErrorKind.SERVER_RAISED_EXCEPTION, details.removeprefix(RAISED))
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return GatewayError(
                ErrorKind.GRPC_DEADLINE_EXCEEDED,
                f"no reply of {name} from {where} within {self._response_seconds:g} s",
            )
        return GatewayError(
            ErrorKind.SERVER_CONNECTION_FAILED, f"the server at {where} is gone: {details}"
        )
