"""Ports on loopback for servers that a test starts."""

import itertools
import os
import socket

# A hundred for each process, below what systems hand out by themselves (Linux from 32768):
# tests side by side take nothing from each other between the question and its use.
_first = 20_000 + os.getpid() % 120 * 100
_candidates = itertools.cycle(range(_first, _first + 100))


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing has now; each call gives others."""
    ports: list[int] = []
    while len(ports) < count:
        port = next(_candidates)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
    return ports
