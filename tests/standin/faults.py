"""What can go wrong between a client and Kaggle, on demand.

Knows which call a fault strikes and what the client gets instead. Knows no service: what a
fault does to a blob, a file or a log is done where those are.
"""

import fnmatch
import threading
from dataclasses import dataclass

from standin.replies import Reply, answer, refusal

_PAGE = b"<!DOCTYPE html><html><body><h1>We'll be back soon</h1></body></html>"
# Whether the call is carried out all the same, unless the fault says otherwise.
_KINDS = {
    "status": False,  # an HTTP status, `code`, with `message` and `retry_after` seconds
    "error": False,  # HTTP 200 with `message` in the field `error`
    "garbage": False,  # a page for people, with `code`
    "drop": True,  # the connection is closed without a reply
    "slow": True,  # the reply comes after `seconds`
    "drop_upload": True,  # PutBlob: closed after `amount` bytes, which are kept
    "expire_upload": True,  # PutBlob: the upload is gone for good
    "drop_download": True,  # GetFile: closed after `amount` bytes
    "drop_log": True,  # StreamLog: closed after `amount` lines
}


@dataclass
class Fault:
    """Strikes `times` calls whose name fits `pattern`, once `after` of them have passed."""

    pattern: str
    kind: str
    times: int = 1
    after: int = 0
    code: int = 503
    message: str = "injected"
    retry_after: int | None = None
    seconds: float = 0.0
    amount: int = 0
    carried_out: bool | None = None  # None: as is usual for the kind
    struck: int = 0

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"no fault is called {self.kind!r}, only {', '.join(_KINDS)}")
        if self.kind == "garbage" and self.code == 503:
            self.code = 200
        if self.carried_out is None:
            self.carried_out = _KINDS[self.kind]

    @property
    def replaces(self) -> bool:
        """Whether the client gets something else than the call's own answer."""
        return self.kind in ("status", "error", "garbage", "drop")

    def reply(self) -> Reply | None:
        """What the client gets; None where the connection is closed."""
        if self.kind == "drop":
            return None
        if self.kind == "garbage":
            return Reply(self.code, _PAGE, "text/html")
        if self.kind == "error":
            return answer({"status": "error", "error": self.message})
        reply = refusal(self.code, self.message)
        if self.retry_after is not None:
            reply.headers["Retry-After"] = str(self.retry_after)
        return reply


class Faults:
    """The faults that are due, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> Fault:
        with self._lock:
            self._waiting.append(fault)
        return fault

    def take(self, method: str) -> Fault | None:
        """The fault that strikes this call, if any; the call counts for the others' `after`."""
        struck: Fault | None = None
        with self._lock:
            for fault in self._waiting:
                if not fnmatch.fnmatchcase(method, fault.pattern) or fault.struck >= fault.times:
                    continue
                if fault.after > 0:
                    fault.after -= 1
                elif struck is None:
                    struck = fault
            if struck is not None:
                struck.struck += 1
        return struck
