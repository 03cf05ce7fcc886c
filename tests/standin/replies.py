"""The shapes of answers: a reply, a refusal, a page of a list, a moment.

Knows the client's conventions for them. Knows no service and no socket.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

Item = TypeVar("Item")


class RefusalError(Exception):
    """What Kaggle answers with an HTTP status and a message."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code, self.message = code, message


@dataclass
class Reply:
    """`body` as bytes, or as an iterator of pieces sent as they come.

    `cut` is how much of it is sent before the connection is lost: bytes, or pieces.
    """

    status: int = 200
    body: bytes | Iterator[bytes] = b""
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


def answer(value: dict[str, Any], status: int = 200) -> Reply:
    return Reply(status, json.dumps(value).encode())


def refusal(code: int, message: str) -> Reply:
    """The client shows `message` where it finds `code` beside it."""
    return answer({"code": code, "message": message}, code)


def redirect(url: str) -> Reply:
    return Reply(302, headers={"Location": url})


def page(items: Iterable[Item], request: dict[str, Any]) -> tuple[list[Item], str]:
    """The page that was asked for, and the next one's token, empty after the last."""
    everything = list(items)
    start = int(request.get("pageToken") or 0)
    end = start + (request.get("pageSize") or 20)
    return everything[start:end], str(end) if end < len(everything) else ""


def moment(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
