"""What a result was made with: Python, packages, processor, GPUs, git's commit."""

import os
import platform
import re
import subprocess
from importlib.metadata import distributions
from pathlib import Path
from typing import Any


def environment() -> dict[str, Any]:
    """Python, platform, cores, GPUs, and the versions of all packages, as plain values."""
    found = ((d.metadata["Name"], d.version) for d in distributions())
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": cores(),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "gpus": gpu_names(),
        "packages": dict(sorted((name, version) for name, version in found if name)),
    }


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory() -> int:
    """Bytes of the machine's memory that are free, counting what it only caches.

    Linux alone says that without a package.
    """
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        return 1024 * int(re.search(r"^MemAvailable: *(\d+) kB$", text, re.MULTILINE)[1])
    except OSError:
        import psutil

        return psutil.virtual_memory().available


def gpus() -> list[str]:
    """GPUs that a process may be given, as CUDA_VISIBLE_DEVICES names them.

    The variable, where it is set, decides: empty means none.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    return [str(number) for number in range(len(_ask_driver("index")))]


def gpu_names() -> list[str]:
    """Name, memory and driver of each of the machine's GPUs."""
    return _ask_driver("name,memory.total,driver_version")


def commit(root: Path) -> dict[str, Any]:
    """git's commit of a clone and whether files differ from it; no commit is None."""
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"commit": _git(root, "rev-parse", "HEAD"), "changed": bool(changes)}


def _git(root: Path, *arguments: str) -> str | None:
    return _output("git", "-C", str(root), *arguments)


def _ask_driver(fields: str) -> list[str]:
    # Not torch: it takes seconds to load, and memory of the GPU.
    text = _output("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader")
    return (text or "").splitlines()


def _output(*command: str) -> str | None:
    """What a program says; None where it is absent or fails."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return ran.stdout.strip() if ran.returncode == 0 else None
