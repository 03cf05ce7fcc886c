"""Runs the gateway of the competition's own evaluation package, as Kaggle's other container does.

    python real_gateway.py FOLDER MODULE CLASS TEST_FILE [PORT]

FOLDER holds the package. Where the server's host name of a rerun is not known on this machine,
PORT tells where it listens on loopback. Imports nothing of ours.
"""

import importlib
import sys

folder, module, kind, test_file, *port = sys.argv[1:]
sys.path.append(folder)
gateway = getattr(importlib.import_module(module), kind)((test_file,))
if port:
    relay = importlib.import_module(f"{module.partition('.')[0]}.core.relay")
    relay.GRPC_PORTS = [int(port[0])]
    # One client up to 0.9, one for each server from 1.x on.
    for client in getattr(gateway, "clients", {"": gateway.client}).values():
        client.channel_address, client.port = "localhost", int(port[0])
gateway.run()
