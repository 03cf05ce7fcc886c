"""Runs as notebooks on Kaggle, each a private kernel of its own.

The kernel's notebook carries the run's whole order and a mark made of it and of the versions
of the datasets it is attached to. So a run that was pushed before, by a driver that was
killed since, is found again by its mark and not pushed twice. What it leaves comes back as
one archive among its output.
"""

import hashlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat

from mathllm.batches.running import unpack
from mathllm.batches.runs import Run
from mathllm.batches.workdir import KILLED, ORDER, BatchFolder, write_status
from mathllm.competition.bundle import manifest
from mathllm.competition.bundle.metadata import KERNEL_TITLE, placeholders, slugify
from mathllm.competition.bundle.secrets import secret_in
from mathllm.delivery.client import Kaggle
from mathllm.delivery.replies import COMPLETE, ENDED, Pushed
from mathllm.delivery.runs import fetch_output
from mathllm.errors import DeliveryError, TryAgainError
from mathllm.files import is_full
from mathllm.paths import BOOTSTRAP
from mathllm.settings import CURRENT
from mathllm.unpacking import UnpackError

ARCHIVE = "run.tar"  # among the output of a kernel
SLACK_MINUTES = 20.0  # for the session's start, over a run's own limit
_RUN = """\
from mathllm.batches.running import run_remote
from mathllm.paths import working_dir

archive = run_remote(order.encode(), os.cpu_count() or 1, minutes)
(working_dir() / "{archive}").write_bytes(archive)"""


class OnKaggle:
    """`sessions` at once: Kaggle has a limit of its own, and says so. `sources` are the
    datasets' versions that the kernels are attached to, `metadata` the bundle's kernel's."""

    name = "kaggle"

    def __init__(
        self,
        place: BatchFolder,
        kaggle: Kaggle,
        sources: list[str],
        title: str,
        minutes: float,
        sessions: int,
        accelerator: str,
        metadata: dict[str, Any],
    ):
        self.slots = sessions
        self._place, self._kaggle, self._sources = place, kaggle, sources
        self._title, self._minutes = title, minutes
        self._accelerator, self._metadata = accelerator, metadata
        self._line: list[str] = []  # to be pushed when Kaggle has a session
        self._running: dict[str, str] = {}  # run -> kernel

    def submit(self, run: Run) -> None:
        self._line.append(run.id)

    def wait(self, seconds: float) -> list[str]:
        """As slow as the client's own: Kaggle counts requests."""
        lost = self._push_some()
        if lost or not self._running:
            return lost
        time.sleep(max(seconds, self._kaggle.policy.poll))
        ended = []
        for run_id, ref in list(self._running.items()):
            status, message = self._kaggle.run_status(ref)
            if status in ENDED:
                del self._running[run_id]
                self._bring(run_id, ref, status, message)
                ended.append(run_id)
        return ended

    def close(self) -> None:
        """What runs on Kaggle goes on there, and is found again."""
        if self._running:
            self._kaggle.say(f"{len(self._running)} runs go on: the same command finds them again")

    def _push_some(self) -> list[str]:
        """Push what is in line, as far as there are sessions; runs that Kaggle refused."""
        while self._line:
            run_id = self._line[0]
            try:
                self._running[run_id] = self._push(run_id)
            except TryAgainError:
                if not self._running:
                    raise
                return []  # a session is free when one of ours has ended
            except DeliveryError as fault:
                del self._line[0]
                write_status(self._place.run(run_id), KILLED, str(fault))
                return [run_id]
            del self._line[0]
        return []

    def _push(self, run_id: str) -> str:
        """Have the run on Kaggle, running or ended well; its kernel."""
        order = (self._place.run(run_id) / ORDER).read_text(encoding="utf-8")
        plain = {k: v for k, v in json.loads(order).items() if k in ("id", "steps")}
        for step in plain["steps"]:
            if found := secret_in(f"{step['notebook']}\n{json.dumps(step['parameters'])}".encode()):
                raise DeliveryError(
                    f"the notebook or the parameters of {step['name']} hold {found[1]}: take it "
                    "out before anything is uploaded"
                )
        made = json.dumps([plain, self._sources, self._minutes], sort_keys=True)
        mark = f"run {run_id} {hashlib.sha256(made.encode()).hexdigest()[:16]}"
        names = placeholders(self._kaggle.user, self._name(run_id), self._accelerator, CURRENT.slug)
        ref = f"{names['owner']}/{names['slug']}"
        before = self._kaggle.kernel(ref)
        if before is not None and mark in before.source:
            status, _ = self._kaggle.run_status(ref)
            if status not in ENDED or status == COMPLETE:
                return ref
        after = before.version if before else 0

        def already_done() -> Pushed | None:
            found = self._kaggle.kernel(ref)
            there = found is not None and found.version > after and mark in found.source
            return Pushed(ref, found.version, "", []) if there else None

        with tempfile.TemporaryDirectory() as folder:
            self._stage(Path(folder), names, order, mark)
            seconds = int(60 * (self._minutes + SLACK_MINUTES))
            pushed = self._kaggle.push_kernel(Path(folder), already_done, seconds)
        if pushed is None or pushed.refused:
            refused = ", ".join(pushed.refused if pushed else [])
            raise DeliveryError(f"{ref} runs without {refused}, which Kaggle did not attach")
        return ref

    def _name(self, run_id: str) -> str:
        """A title whose slug is its own, within Kaggle's length."""
        room = KERNEL_TITLE[1] - len(run_id) - 1
        return f"{slugify(self._title)[:room].strip('-')}-{run_id}"

    def _stage(self, folder: Path, names: dict[str, str], order: str, mark: str) -> None:
        cells = [
            nbformat.v4.new_code_cell(f"# {mark}\n{BOOTSTRAP}"),
            nbformat.v4.new_code_cell(f"order = {order!r}\nminutes = {self._minutes!r}"),
            nbformat.v4.new_code_cell(_RUN.format(archive=ARCHIVE)),
        ]
        for number, cell in enumerate(cells):
            cell["id"] = f"cell-{number}"
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(notebook, folder / manifest.NOTEBOOK)
        metadata = self._metadata | {
            "id": f"{names['owner']}/{names['slug']}",
            "title": names["title"],
            "dataset_sources": self._sources,
            "competition_sources": [],
            "machine_shape": names["accelerator"],
            "enable_gpu": bool(names["accelerator"]),
            "is_private": True,
        }
        text = json.dumps(metadata, indent=2)
        (folder / manifest.KERNEL_METADATA).write_text(text, encoding="utf-8")

    def _bring(self, run_id: str, ref: str, status: str, message: str) -> None:
        """Put what the kernel left into the run's folder, or why it left nothing."""
        folder = self._place.run(run_id)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".brought-") as temporary:
            output = fetch_output(self._kaggle, ref, Path(temporary) / "output")
            brought = Path(temporary) / "run"
            try:
                unpack((output / ARCHIVE).read_bytes(), brought)
            except (OSError, UnpackError) as fault:
                if is_full(fault):
                    raise
                why = f"the kernel {ref} ended with status {status}"
                write_status(folder, KILLED, f"{why}{f': {message}' if message else ''}")
                return
            self._place.put(run_id, brought)
