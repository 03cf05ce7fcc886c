"""Files by address, without credentials, as storage serves them: ranges, ETag, dates.

Knows bytes and names. Knows nothing of whose they are.
"""

import email.utils
import hashlib
import io
import re
import zipfile
from datetime import datetime
from urllib.parse import quote

from standin.replies import Reply, refusal


class Files:
    """What was given an address so far; the same bytes keep theirs."""

    def __init__(self) -> None:
        self.base = ""  # where the server is
        self._data: dict[str, bytes] = {}

    def url(self, name: str, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()[:16]
        self._data[digest] = data
        # In one segment, as storage has it: clients resolve what looks like a folder.
        return f"{self.base}/files/{digest}/{quote(name, safe='')}"

    def url_of_all(self, name: str, files: dict[str, bytes]) -> str:
        """The same files make the same archive."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for inside in sorted(files):
                archive.writestr(zipfile.ZipInfo(inside), files[inside])
        return self.url(name, buffer.getvalue())

    def reply(self, digest: str, wanted: str, unless: str, modified: datetime) -> Reply:
        """`wanted` and `unless` are the headers Range and If-Range."""
        data = self._data.get(digest)
        if data is None:
            return refusal(404, "Not Found")
        tag, date = f'"{digest}"', email.utils.format_datetime(modified, usegmt=True)
        headers = {"ETag": tag, "Last-Modified": date, "Accept-Ranges": "bytes"}
        kind = "application/octet-stream"
        found = re.fullmatch(r"bytes=(\d+)-", wanted)
        if found is None or unless not in ("", tag, date):
            return Reply(200, data, kind, headers)
        start = int(found.group(1))
        if start >= len(data):
            return Reply(416, b"", kind, headers | {"Content-Range": f"bytes */{len(data)}"})
        span = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return Reply(206, data[start:], kind, headers | {"Content-Range": span})
