"""Ports on loopback for servers that a test starts."""

import socket


def free_ports(count: int) -> list[int]:
    """Ports that nothing has now; each test takes its own."""
    sockets = [socket.socket() for _ in range(count)]
    for held in sockets:
        held.bind(("127.0.0.1", 0))
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports
