"""Runs as tasks of a Ray cluster, whose machines need share nothing with this one.

The package, assets/ and each run's notebooks travel with the tasks; what a run left comes
back as one archive. Ray's own retries are off: a run that was lost is seen, and begun again
on demand. Ray is imported only here, and only when it is used.
"""

import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from mathllm.batches.running import unpack
from mathllm.batches.runs import Run
from mathllm.batches.workdir import KILLED, ORDER, BatchFolder, write_status
from mathllm.environment import cores
from mathllm.errors import BatchError
from mathllm.unpacking import UnpackError

LOCAL = "local"  # in place of an address: Ray on this machine, for as long as the batch
ANSWER_SECONDS = 10.0  # for a cluster to answer
_AT_ONCE = 1000  # tasks that wait in Ray; it may add machines for them


class OnRay:
    """`cpus` and `gpus` are what each run asks for; a run computes with `cpus` threads."""

    name = "ray"
    slots = _AT_ONCE

    def __init__(
        self, place: BatchFolder, root: Path, minutes: float, address: str, cpus: int, gpus: float
    ):
        self._place, self._minutes, self._cpus = place, minutes, cpus
        _check_answer(address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or it would tell its makers
        if address == LOCAL:
            # A token for this batch alone, since Ray would leave one in the user's home folder.
            # It reads them when it is imported.
            os.environ.setdefault("RAY_AUTH_MODE", "token")
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        try:
            import ray
        except ImportError:
            raise BatchError("Ray is not installed here: `pip install ray`") from None
        self._ray = ray
        self._staged = tempfile.TemporaryDirectory(prefix="mathllm-ray-")
        _stage(root, Path(self._staged.name))
        self._connect(address)
        self._check_fit(address, cpus, gpus)
        self._task = ray.remote(_task(cpus, minutes)).options(
            num_cpus=cpus, num_gpus=gpus, max_retries=0
        )
        self._running: dict[Any, str] = {}

    def submit(self, run: Run) -> None:
        order = (self._place.run(run.id) / ORDER).read_bytes()
        self._running[self._task.remote(order)] = run.id

    def wait(self, seconds: float) -> list[str]:
        ready, _ = self._ray.wait(
            list(self._running), num_returns=1, timeout=seconds, fetch_local=True
        )
        return [self._bring(reference) for reference in ready]

    def close(self) -> None:
        self._ray.shutdown()  # ends the tasks, and a cluster that was started here
        self._staged.cleanup()

    def _connect(self, address: str) -> None:
        # A cluster of one machine stays on loopback.
        here = {"num_cpus": cores(), "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        try:
            self._ray.init(
                address=address,
                runtime_env={"working_dir": self._staged.name},
                log_to_driver=False,
                logging_level="ERROR",
                configure_logging=False,
                **(here if address == LOCAL else {}),
            )
        except (ConnectionError, RuntimeError, ValueError) as fault:
            if address in (LOCAL, "auto"):
                raise _no_answer(address, fault) from fault
            raise BatchError(
                f"the Ray cluster at {address} does not let this process in ({_reason(fault)}): it "
                f"must be Ray {self._ray.__version__} as here, and where it asks for a token, "
                "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN must be set here as there"
            ) from fault

    def _check_fit(self, address: str, cpus: int, gpus: float) -> None:
        """A task that no machine can take would wait for ever. Raises BatchError."""
        machines = [n["Resources"] for n in self._ray.nodes() if n["Alive"]]
        if any(m.get("CPU", 0) >= cpus and m.get("GPU", 0) >= gpus for m in machines):
            return
        self.close()
        raise BatchError(
            f"no machine of the Ray cluster at {address} has {cpus} CPUs and {gpus:g} GPUs for a "
            "run: ask for less with --cpus and --gpus, or start such a machine first"
        )

    def _bring(self, reference: Any) -> str:
        """Put what a task left into its run's folder; a lost task leaves its reason."""
        run_id = self._running.pop(reference)
        folder = self._place.run(run_id)
        try:
            archive = self._ray.get(reference)
        except self._ray.exceptions.RayError as fault:
            reason = " ".join(str(fault).split())[:300]
            write_status(folder, KILLED, f"Ray lost it: {type(fault).__name__}: {reason}")
            return run_id
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".brought-") as brought:
            try:
                unpack(archive, Path(brought))
            except UnpackError as fault:
                write_status(folder, KILLED, f"what it left {fault}")
                return run_id
            self._place.put(run_id, Path(brought))
        return run_id


def _task(threads: int, minutes: float) -> Callable[[bytes], bytes]:
    """What Ray sends: a function inside a function goes as it is, not as a name to import."""

    def run(order: bytes) -> bytes:
        import sys
        from pathlib import Path

        sys.path.insert(0, str(Path.cwd() / "src"))
        from mathllm.batches.running import run_remote

        return run_remote(order, threads, minutes)

    return run


def _stage(root: Path, folder: Path) -> None:
    """What a worker needs of the clone; its working directory then looks like one."""
    ignore = shutil.ignore_patterns("__pycache__", ".*")
    shutil.copytree(root / "src" / "mathllm", folder / "src" / "mathllm", ignore=ignore)
    shutil.copytree(root / "assets", folder / "assets", ignore=ignore)


def _check_answer(address: str) -> None:
    """Raise BatchError unless something like Ray answers there, within seconds.

    Ray's own client waits much longer, and may end the process.
    """
    if address in (LOCAL, "auto"):
        return
    kind, _, place = address.rpartition("://")
    host, _, port = place.rpartition(":")
    if kind not in ("", "ray") or not host or not port.isdigit():
        raise BatchError(
            f"--ray {address}: give HOST:PORT, ray://HOST:PORT, auto, or {LOCAL} to start Ray here"
        )
    try:
        if kind:
            socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
        else:
            _ask_health(place)
    except (OSError, grpc.RpcError) as fault:
        raise _no_answer(address, fault) from fault


def _ask_health(place: str) -> None:
    """gRPC's standard question, which the head of a Ray cluster answers."""
    with grpc.insecure_channel(place) as channel:
        channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=ANSWER_SECONDS)


def _no_answer(address: str, fault: Exception) -> BatchError:
    return BatchError(
        f"no Ray cluster answers at {address} ({_reason(fault)}): `ray status` on its head "
        "machine says whether it runs; give its HOST:PORT, or leave --ray out to run here"
    )


def _reason(fault: Exception) -> str:
    words = fault.details() if isinstance(fault, grpc.RpcError) else str(fault)
    return (words.splitlines() or [type(fault).__name__])[0][:200]
