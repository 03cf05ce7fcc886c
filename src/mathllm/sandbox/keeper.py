"""The thread that starts kernels, watches them and ends them, whatever is wrong with one of them.

A kernel belongs to this thread until a session takes it, and again when the session gives it
back; watched it is throughout.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable

from mathllm import children
from mathllm.sandbox.kernel import Kernel, KernelError
from mathllm.sandbox.remover import Remover
from mathllm.sandbox.result import SandboxSettings

log = logging.getLogger(__name__)

WATCH_SECONDS = 0.1  # between two looks at every kernel
STARTING_SECONDS = 0.05  # the same while one starts
# Kernels that fail to start one after another before sessions are told so at once. From then on
# one is tried at a time, after a pause that doubles.
ATTEMPTS = 3
PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
REMOVE_SECONDS = 10.0  # for the folders that are left at the end
# The longest that the end can take: processes are killed, then their folders are deleted.
END_SECONDS = children.KILL_SECONDS + REMOVE_SECONDS + 5.0


class Keeper:
    """`size + spares` kernels, each replaced when its session is over or it fails."""

    def __init__(self, settings: SandboxSettings):
        self._settings = settings
        self._wanted = settings.size + settings.spares
        # The thread's own.
        self._kernels: list[Kernel] = []  # all that live
        self._starting: set[Kernel] = set()
        self._ending: list[Kernel] = []  # killed, their folders still there
        self._remover = Remover()
        self._not_before = 0.0
        self._told: set[str] = set()
        # Shared with sessions, under this lock; it is notified of every change.
        self._change = threading.Condition()
        self._ready: list[Kernel] = []
        self._returned: list[Kernel] = []
        self._layers: list[str] = []
        self._failures, self._cause = 0, ""
        self._wake, self._closing = threading.Event(), threading.Event()
        # One for the whole of a kernel's life: kernels end with the thread that made them.
        self._thread = threading.Thread(target=self._keep, name="sandbox", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def alive(self) -> bool:
        return self._thread.is_alive() and not self._closing.is_set()

    def close(self) -> None:
        """End all kernels, those that sessions hold too, within END_SECONDS."""
        self._closing.set()
        self._wake.set()
        self._thread.join(END_SECONDS)
        if self._thread.is_alive():
            log.warning("the sandbox does not end: its thread is left behind")

    def take(self, limit: float) -> Kernel | None:
        """The kernel that has been ready longest, once one is; None where this thread has ended.

        KernelError where none is ready at `limit`, a time.monotonic(), or none starts.
        """
        begin = time.monotonic()
        with self._change:
            while self.alive():
                for kernel in self._ready:
                    if kernel.alive():
                        self._ready.remove(kernel)
                        return kernel
                if self._failures >= ATTEMPTS:
                    raise KernelError(self._cause)
                left = limit - time.monotonic()
                if left <= 0:
                    waited = f"no kernel of the sandbox was ready within {limit - begin:.3g} s"
                    raise KernelError(self._cause or waited)
                self._change.wait(min(left, WATCH_SECONDS))
        return None

    def give_back(self, kernel: Kernel) -> None:
        """End a kernel, in the thread that used it; another one is started in its place."""
        self._guard(kernel.close)
        with self._change:
            self._returned.append(kernel)
        self._wake.set()

    def layers(self, limit: float) -> list[str]:
        """What confines the kernels, once the first says so; empty where none does."""
        with self._change:
            while not self._layers and self.alive() and self._failures < ATTEMPTS:
                left = limit - time.monotonic()
                if left <= 0:
                    break
                self._change.wait(min(left, WATCH_SECONDS))
            return list(self._layers)

    def _keep(self) -> None:
        try:
            while not self._closing.is_set():
                self._wake.clear()
                for step in (self._take_back, self._look, self._start, self._delete):
                    self._guard(step)
                self._wake.wait(STARTING_SECONDS if self._starting else WATCH_SECONDS)
        except BaseException as error:
            self._warn(error)
        finally:
            self._closing.set()
            self._end_all()

    def _take_back(self) -> None:
        with self._change:
            returned, self._returned = self._returned, []
        for kernel in returned:
            self._discard(kernel)

    def _look(self) -> None:
        """See to every kernel; one that cannot be looked at is ended, the others go on."""
        for kernel in tuple(self._kernels):
            try:
                kernel.watch()
                if layers := kernel.layers():
                    self._say(layers)
                if kernel in self._starting:
                    if kernel.ready():
                        self._has_started(kernel)
                elif kernel in self._ready and not kernel.alive():
                    self._discard(kernel)
            except Exception as error:
                if not isinstance(error, KernelError):
                    self._warn(error)
                self._has_failed(error)
                self._discard(kernel)

    def _start(self) -> None:
        failing = self._failures >= ATTEMPTS
        while len(self._kernels) < self._wanted and time.monotonic() >= self._not_before:
            if self._closing.is_set() or (failing and self._starting):
                return
            try:
                kernel = Kernel(self._settings)
            except Exception as error:
                if not isinstance(error, KernelError):
                    self._warn(error)
                self._has_failed(error)
                return
            self._kernels.append(kernel)
            self._starting.add(kernel)

    def _delete(self) -> None:
        """Delete the folders of those whose process is gone."""
        for kernel in tuple(self._ending):
            self._guard(lambda kernel=kernel: self._bury(kernel))
        self._remover.look()

    def _bury(self, kernel: Kernel) -> None:
        kernel.end()  # once more: the first time something may have been wrong
        if kernel.gone():
            self._ending.remove(kernel)
            self._remover.add(kernel.folder)

    def _discard(self, kernel: Kernel, cause: str | None = None) -> None:
        """End a kernel. Its folder is deleted later, and what is wrong with the end said."""
        if kernel not in self._kernels:
            return  # ended before its session gave it back
        self._kernels.remove(kernel)
        self._ending.append(kernel)
        with self._change:
            own = kernel in self._starting or kernel in self._ready
            self._ready = [other for other in self._ready if other is not kernel]
        self._starting.discard(kernel)
        self._guard(lambda: kernel.end(cause))
        if own:  # else its sockets are used by a session's thread
            self._guard(kernel.close)

    def _has_started(self, kernel: Kernel) -> None:
        self._starting.discard(kernel)
        with self._change:
            self._ready.append(kernel)
            self._failures, self._cause = 0, ""
            self._change.notify_all()
        self._not_before = 0.0

    def _has_failed(self, error: Exception) -> None:
        with self._change:
            self._failures += 1
            self._cause = str(error) or type(error).__name__
            self._change.notify_all()
        pause = WATCH_SECONDS
        if self._failures >= ATTEMPTS:
            doubled = PAUSE_SECONDS * 2 ** min(self._failures - ATTEMPTS, 10)
            pause = min(doubled, LONGEST_PAUSE_SECONDS)
        self._not_before = time.monotonic() + pause

    def _say(self, layers: list[str]) -> None:
        if not self._layers:
            with self._change:
                self._layers = layers
                self._change.notify_all()

    def _end_all(self) -> None:
        """Kill what is left, then delete every folder, for no longer than END_SECONDS."""
        for kernel in tuple(self._kernels):
            self._discard(kernel, "the sandbox is closed")
        deadline = time.monotonic() + children.KILL_SECONDS
        while self._ending and time.monotonic() < deadline:
            self._guard(self._delete)
            time.sleep(0.01)
        for kernel in self._ending:
            self._remover.add(kernel.folder)
        for folder in self._remover.finish(time.monotonic() + REMOVE_SECONDS):
            log.warning("%s cannot be deleted: delete it by hand", folder)

    def _guard(self, action: Callable[[], object]) -> None:
        """Do it; what is wrong is said, and ends nothing."""
        try:
            action()
        except Exception as error:
            self._warn(error)

    def _warn(self, error: BaseException) -> None:
        """Say what is wrong with a kernel, every cause once."""
        told = f"{type(error).__name__}: {error}"
        if told not in self._told:
            self._told.add(told)
            with contextlib.suppress(Exception):
                log.warning("the sandbox meets a fault and goes on: %s", told)
