"""Uploads that can be resumed, by the rules of Google's storage.

A PUT with `Content-Range: bytes */N` asks how far an upload is; one with a range goes on,
one without begins anew. What came before a connection was lost is kept. Knows nothing of
what the files are for.
"""

import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from standin.faults import Fault
from standin.replies import Reply, refusal
from standin.state import Blob

if TYPE_CHECKING:
    from standin.server import KaggleStandIn

PIECE = 1 << 16


def start_upload(kaggle: "KaggleStandIn", _: str, request: dict[str, Any]) -> dict[str, Any]:
    token = f"blob-{len(kaggle.blobs) + 1}"
    kaggle.blobs[token] = Blob(token, request["name"], request.get("contentLength", 0))
    return {"token": token, "createUrl": f"{kaggle.url}/upload/{token}"}


def piece_size(kaggle: "KaggleStandIn") -> int:
    """Small enough that a slow upload is slow throughout."""
    rate = kaggle.settings.upload_rate
    return PIECE if rate is None else max(1, min(PIECE, int(rate / 50)))


def put(
    kaggle: "KaggleStandIn", token: str, span: str, pieces: Iterator[bytes], fault: Fault | None
) -> Reply | None:
    """`span` is the header Content-Range. None where the connection is to be closed."""
    blob = kaggle.blobs.get(token)
    if blob is not None and fault is not None and fault.kind == "expire_upload":
        blob.expired = True
    if blob is None or blob.expired:
        _drain(pieces)
        return refusal(404, "Not Found")
    with kaggle.lock:
        blob.turn += 1
        turn = blob.turn
        if span.startswith("bytes */"):
            blob.questions += 1
            return _progress(blob)
        whole = blob.complete
        begin = int(found.group(1)) if (found := re.match(r"bytes (\d+)-", span)) else 0
        if not whole and begin > len(blob.data):
            return refusal(400, f"{len(blob.data)} bytes are here, the range begins at {begin}")
        if not whole:
            del blob.data[begin:]
        blob.puts.append((begin, 0))
        index = len(blob.puts) - 1
    if whole:  # sent once more, for nothing
        blob.puts[index] = (begin, _drain(pieces))
        return _progress(blob)
    limit = fault.amount if fault is not None and fault.kind == "drop_upload" else None
    if not _fill(kaggle, blob, turn, index, pieces, limit):
        return None
    return _progress(blob)


def _fill(
    kaggle: "KaggleStandIn",
    blob: Blob,
    turn: int,
    index: int,
    pieces: Iterator[bytes],
    limit: int | None,
) -> bool:
    """Take pieces until the file is whole; False when the connection is to be closed before."""
    begin, taken = blob.puts[index][0], 0
    for piece in pieces:
        rate = kaggle.settings.upload_rate
        if rate is not None:
            time.sleep(len(piece) / rate)
        with kaggle.lock:
            if blob.turn != turn:  # the client came back on another connection
                return False
            part = piece if limit is None else piece[: limit - taken]
            blob.data += part
            taken += len(part)
            blob.puts[index] = (begin, taken)
            if limit is not None and taken >= limit:
                return False
    with kaggle.lock:
        blob.complete = blob.turn == turn and len(blob.data) == blob.size
    return limit is None


def _progress(blob: Blob) -> Reply:
    if blob.complete:
        return Reply(200)
    had = {"Range": f"bytes=0-{len(blob.data) - 1}"} if blob.data else {}
    return Reply(308, headers=had)


def _drain(pieces: Iterator[bytes]) -> int:
    return sum(len(piece) for piece in pieces)


METHODS = {"StartBlobUpload": start_upload}
