"""Kaggle, as the kaggle package's own client reaches it.

Knows the client, how it fails, and what it leaves unsaid: errors that it prints or returns with
exit status 0, files that it skips without a word. Every method raises DeliveryError for what a
person must mend and TryAgainError for what passes.
"""

import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mathllm.delivery.credentials import sign_in
from mathllm.delivery.replies import (
    Dataset,
    Kernel,
    Pushed,
    SubmissionStatus,
    explained,
    kernel_refusal,
)
from mathllm.delivery.retry import RetryPolicy, retry, status_of
from mathllm.errors import DeliveryError, TryAgainError

Answer = TypeVar("Answer")

_INSIDE = r"\A(?!/)(?!.*(\A|[/\\])\.\.([/\\]|\Z))(?!.*:)[^\x00-\x1f]+\Z"


class Kaggle:
    """The client, signed in. With `dry_run`, what would change something is said, not done."""

    def __init__(
        self, say: Callable[[str], None], policy: RetryPolicy | None = None, dry_run: bool = False
    ):
        self.say = say
        self.policy = policy or RetryPolicy()
        self.dry_run = dry_run
        self._api = sign_in(self.policy, say)
        self.user: str = self._api.config_values["username"]

    # ------------------------------------------------------------------ datasets

    def dataset(self, ref: str) -> Dataset | None:
        """None where the user has no such dataset."""
        from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetRequest

        request = ApiGetDatasetRequest()
        request.owner_slug, request.dataset_slug = ref.split("/")
        with self._api.build_kaggle_client() as client:
            ask = client.datasets.dataset_api_client.get_dataset
            found = self._read(f"datasets show {ref}", lambda: ask(request), absent=(403, 404))
        if found is None:
            return None
        notes = {v.version_number: v.version_notes or "" for v in found.versions}
        version = max([found.current_version_number or 1, *notes])
        return Dataset(ref, found.title or "", version, found.description or "", notes)

    def dataset_status(self, ref: str) -> str:
        """READY, FAILED, or the name of a step on the way."""
        what = f"datasets status {ref}"
        return self._read(what, lambda: self._api.dataset_status(ref), absent=(403, 404)) or "new"

    def send_dataset(
        self,
        stage: Callable[[], Path],
        metadata: dict[str, Any],
        notes: str,
        new: bool,
        uploads: Path,
        already_done: Callable[[], bool],
    ) -> None:
        """Upload the files of `stage()` and make them a dataset, or the next version of one.

        `uploads` keeps what the client remembers of half-sent files, so that the same call
        goes on with them. `already_done` tells whether the version is there by now.
        """
        ref = metadata["id"]
        what = f"datasets {'create' if new else 'version'} {ref}"
        if self._only_said(f"{what} ({notes})"):
            return
        folder = stage()
        names = sorted(p.name for p in folder.iterdir() if p.name != "dataset-metadata.json")
        from kaggle.api.kaggle_api_extended import ResumableUploadContext
        from kagglesdk.blobs.types.blob_api_service import ApiBlobType

        request = _create_request(metadata) if new else _version_request(metadata, notes)
        files = request if new else request.body
        before = _memories(uploads)
        with _remembered_in(uploads), ResumableUploadContext() as context:

            def upload() -> None:
                files.files = []  # nothing twice when it is asked again
                self._api.upload_files(files, None, str(folder), ApiBlobType.DATASET, context)

            self._read(f"upload to {ref}", upload)
            if missing := len(names) - len(files.files):
                # The client goes on without a file that it could not send. What it took up
                # again in vain, it would take up for ever: Kaggle forgets after a week.
                for memory, _ in before.items() & _memories(uploads).items():
                    memory.unlink()
                raise TryAgainError(
                    f"{missing} of {len(names)} files did not reach Kaggle ({what}): repeat the "
                    "command"
                )
            with self._api.build_kaggle_client() as client:
                calls = client.datasets.dataset_api_client
                call = calls.create_dataset if new else calls.create_dataset_version
                answer = self._change(what, lambda: call(request), already_done)
        if answer is not True and (answer.status or "ok").lower() != "ok" and not already_done():
            raise DeliveryError(f"{what}: Kaggle refused it: {answer.error or answer.status}")

    # ------------------------------------------------------------------- kernels

    def kernel(self, ref: str) -> Kernel | None:
        """None where the user has no such kernel."""
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest

        request = ApiGetKernelRequest()
        request.user_name, request.kernel_slug = ref.split("/")
        with self._api.build_kaggle_client() as client:
            ask = client.kernels.kernels_api_client.get_kernel
            found = self._read(f"kernels show {ref}", lambda: ask(request), absent=(401, 403, 404))
        if found is None:
            return None
        return Kernel(ref, found.metadata.current_version_number or 0, found.blob.source or "")

    def push_kernel(
        self, folder: Path, already_done: Callable[[], Pushed | None], seconds: int | None = None
    ) -> Pushed | None:
        """Push the kernel in `folder`, to run `seconds` at most; None in a dry run."""
        metadata = json.loads((folder / "kernel-metadata.json").read_text(encoding="utf-8"))
        what = f"kernels push {metadata['id']}"
        if self._only_said(f"{what} with {', '.join(metadata['dataset_sources'])}"):
            return None
        # The client prints advice on titles that are checked before.
        with contextlib.redirect_stdout(io.StringIO()):
            ask = lambda: self._api.kernels_push(str(folder), seconds)  # noqa: E731
            answer = self._change(what, ask, already_done)
        if isinstance(answer, Pushed):
            return answer
        if answer.error:
            raise kernel_refusal(what, answer.error)
        refused = [
            *answer.invalid_dataset_sources,
            *answer.invalid_competition_sources,
            *answer.invalid_kernel_sources,
            *answer.invalid_model_sources,
        ]
        ref = answer.ref.removeprefix("/code/").strip("/") or metadata["id"]
        return Pushed(ref, answer.version_number or 0, answer.url, refused)

    def run_status(self, ref: str) -> tuple[str, str]:
        """Status of the newest version's run, and what it says of a failure."""
        found = self._read(f"kernels status {ref}", lambda: self._api.kernels_status(ref))
        return found.status.name.lower(), found.failure_message or ""

    def log(self, ref: str) -> Iterator[str]:
        """The run's log from its beginning, as it comes. Raises what the client does."""
        for event in self._api.kernels_logs_stream(ref):
            if text := event.get("data"):
                yield text

    def download_output(self, ref: str, folder: Path) -> None:
        """What the newest version's run left, and its log as SLUG.log.

        The client writes a file where its name says: only names that stay inside are asked for.
        """
        what = f"kernels output {ref}"
        ask = partial(self._api.kernels_output, ref, str(folder), _INSIDE, force=True)
        self._read(what, ask)

    # -------------------------------------------------------------- competitions

    def competition_files(self, slug: str) -> list[tuple[str, int]]:
        """(name, bytes) of the first files; DeliveryError unless the rules are accepted."""
        what = f"competitions files {slug}"
        found = self._read(what, lambda: self._api.competition_list_files(slug))
        return [(file.name, file.total_bytes) for file in found.files or []]

    def download_competition(self, slug: str, folder: Path) -> Path:
        """All files of a competition as one archive; an interrupted download goes on."""
        what, ask = f"competitions download {slug}", self._api.competition_download_files
        self._read(what, lambda: ask(slug, str(folder), quiet=False))
        return folder / f"{slug}.zip"

    def submissions_left(self, slug: str) -> tuple[int, int]:
        """(left today, made today)."""
        ask = lambda: self._api.competition_get_submission_limits(slug)  # noqa: E731
        found = self._read(f"competitions submission-limits {slug}", ask)
        return found.num_allowed_now, found.num_today

    def submissions(self, slug: str) -> list[SubmissionStatus]:
        """The newest ones first, a page of them."""
        ask = lambda: self._api.competition_submissions(slug, page_size=100)  # noqa: E731
        found = self._read(f"competitions submissions {slug}", ask) or []
        return [
            SubmissionStatus(
                ref=one.ref,
                description=one.description or "",
                status=one.status.name.lower(),
                public_score=one.public_score or "",
                private_score=one.private_score or "",
                error=one.error_description or "",
                date=one.date.isoformat(timespec="seconds") if one.date else "",
            )
            for one in found
            if one is not None
        ]

    def submit(
        self,
        slug: str,
        kernel: str,
        version: int,
        file: str,
        message: str,
        already_done: Callable[[], int | None],
    ) -> int | None:
        """Submit a kernel's version; the submission's number, None in a dry run."""
        what = f"competitions submit {slug} -k {kernel} -v {version} -f {file}"
        if self._only_said(what):
            return None
        ask = lambda: self._api.competition_submit_code(  # noqa: E731
            file, message, slug, kernel, version, quiet=True
        )
        answer = self._change(what, ask, already_done)
        if isinstance(answer, int):
            return answer
        if not answer.ref:
            raise DeliveryError(f"{what}: Kaggle refused it: {answer.message}")
        return answer.ref

    # ------------------------------------------------------------------ one call

    def _only_said(self, what: str) -> bool:
        if self.dry_run:
            self.say(f"would call  {what}")
        return self.dry_run

    def _read(self, what: str, ask: Callable[[], Answer], absent: tuple[int, ...] = ()) -> Any:
        """An answer that can be asked for again; None for the statuses in `absent`."""
        if self.dry_run:
            self.say(f"calls       {what}")
        try:
            return retry(what, ask, self.policy, self.say)
        except Exception as fault:
            if status_of(fault) in absent:
                return None
            raise explained(what, fault) from fault

    def _change(
        self, what: str, ask: Callable[[], Answer], already_done: Callable[[], Any | None]
    ) -> Any:
        try:
            return retry(what, ask, self.policy, self.say, lambda: already_done() or None)
        except Exception as fault:
            raise explained(what, fault) from fault


@contextmanager
def _remembered_in(folder: Path) -> Iterator[None]:
    """What the client remembers of half-sent files, in `folder` and not among temporary files."""
    folder.mkdir(parents=True, exist_ok=True)
    before, tempfile.tempdir = tempfile.tempdir, str(folder.resolve())
    try:
        yield
    finally:
        tempfile.tempdir = before


def _memories(folder: Path) -> dict[Path, int]:
    """What the client remembers of files on their way, with the time it was written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob(".kaggle/uploads/*.json")}


def _create_request(metadata: dict[str, Any]) -> Any:
    from kagglesdk.datasets.types.dataset_api_service import ApiCreateDatasetRequest

    request = ApiCreateDatasetRequest()
    request.owner_slug, request.slug = metadata["id"].split("/")
    request.title = metadata["title"]
    request.license_name = metadata["licenses"][0]["name"]
    request.subtitle = metadata["subtitle"]
    request.description = metadata["description"]
    request.is_private = metadata["isPrivate"]
    request.files, request.category_ids = [], []
    return request


def _version_request(metadata: dict[str, Any], notes: str) -> Any:
    from kagglesdk.datasets.types.dataset_api_service import (
        ApiCreateDatasetVersionRequest,
        ApiCreateDatasetVersionRequestBody,
    )

    body = ApiCreateDatasetVersionRequestBody()
    body.version_notes = notes
    body.subtitle, body.description = metadata["subtitle"], metadata["description"]
    body.files, body.category_ids = [], []
    request = ApiCreateDatasetVersionRequest()
    request.owner_slug, request.dataset_slug = metadata["id"].split("/")
    request.body = body
    return request
