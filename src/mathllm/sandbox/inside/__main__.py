"""The child: confines itself, then becomes an IPython kernel.

Started as `python -I <this folder> <order as JSON>`, so that the modules beside this one
come by their own names and nothing of mathllm is imported. What is confined comes before
the first thread and the first foreign import: Landlock and seccomp hold for the thread that
asks for them and for those that it starts.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import audit
import landlock
import limits
import seccomp
import shell


def confine(order: dict[str, Any]) -> list[str]:
    """Every layer that this machine offers, outermost last; their names."""
    layers = ["scrubbed environment", "own process group"]
    own = [order["work"], order["channel"]]
    if limits.no_new_privileges():
        layers.append("no new privileges")
    limits.first_to_go()
    user = limits.drop_user([order["folder"], *own], order["must_read"])
    if user is not None:
        layers.append(f"unprivileged user ({user})")
    elif os.geteuid() == 0:
        layers.append("the user stays root")
    else:
        layers.append("the user stays the same")
    limits.set_limits(order, alone=user is not None)
    layers.append("resource limits")
    if limits.drop_capabilities():
        layers.append("no capabilities")
    # After the change of user, which forgets it.
    if limits.die_with_parent(order["parent"]):
        layers.append("dies with its parent")
    readable = [*order["readable"], f"/proc/{os.getpid()}"]
    if version := landlock.confine(readable, own):
        layers.append(f"landlock (ABI {version})")
    if seccomp.confine():
        layers.append("seccomp")
    audit.install(readable, own)
    layers.append("audit hook")
    return layers


def main() -> None:
    """Confine, say which layers are in force, and serve until killed."""
    order = json.loads(sys.argv[1])
    sys.argv[1:] = []
    sys.path[0:1] = []  # this folder
    sys.path += [path for path in order["packages"] if path not in sys.path]
    layers = confine(order)
    report = Path(order["report"])
    # Renamed, so that the parent never reads half of it.
    report.with_suffix(".part").write_text(json.dumps(layers))
    report.with_suffix(".part").rename(report)
    shell.serve(order["connection"], order["output_chars"])


if __name__ == "__main__":
    main()
