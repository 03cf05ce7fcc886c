"""Processes without a network and without the working tree, as on Kaggle.

Two ways, the first that can be had:

- a network namespace in which only loopback exists (util-linux' `unshare` and `nsenter`; as
  another user than root, inside a user namespace of its own): nothing can get out of it,
  whatever language it is written in. There the server has the host name that it has on
  Kaggle, by an /etc/hosts of its own;
- a guard inside each Python process, children included: every connection, message and name
  look-up that is not loopback's is refused. Native code with sockets of its own passes it by,
  so that proxies which lead nowhere are set as well.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal

from mathllm import children
from mathllm.competition.protocol.channel import RERUN_HOST

Mode = Literal["namespace", "guard"]

DESCRIPTION = {
    "namespace": "a network namespace with only loopback",
    "guard": "connections other than loopback refused inside each Python process "
    "(no network namespace can be had here)",
}
# Brings loopback up (it is down in a new namespace), puts its first argument over /etc/hosts,
# makes the others read-only where that can be had (guard.py does so in any case), says so, and
# holds the namespace open until its standard input closes, however the parent ends.
_HOLDER = """
import fcntl, socket, struct, subprocess, sys
subprocess.run(["mount", "--bind", sys.argv[1], "/etc/hosts"], check=True)
for path in sys.argv[2:]:
    if not subprocess.run(["mount", "--bind", path, path], check=False).returncode:
        subprocess.run(["mount", "-o", "remount,bind,ro", path], check=False)
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    request = struct.pack("16sh22x", b"lo", 0)
    flags = struct.unpack_from("h", fcntl.ioctl(s, SIOCGIFFLAGS, request), 16)[0]
    fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | IFF_UP))
print("up", flush=True)
sys.stdin.read()
"""
# What every process finds on its path, and the file here that it is.
COPIES = {
    "sitecustomize.py": "guard.py",
    "mathllm_strikes.py": "strikes.py",
    "mathllm_played_server.py": "played_server.py",
}
NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens there


class Isolation:
    """A place for processes that share loopback and nothing else. Use it in a `with`.

    `folder` (empty or new) is for its own files, `hidden` are the folders that no process in
    it may import from, `read_only` those in which none may write, `absent` the names of
    distributions and modules that none finds in this environment. `mode` says which way is
    used; asking for one by name raises OSError where it cannot be had.
    """

    def __init__(
        self,
        folder: Path,
        hidden: Sequence[Path] = (),
        mode: Mode | None = None,
        read_only: Sequence[Path] = (),
        absent: Sequence[str] = (),
    ):
        self._folder = folder
        self._hidden = os.pathsep.join(os.path.realpath(path) for path in hidden)
        self._read_only = [os.path.realpath(path) for path in read_only]
        self._absent = ",".join(absent)
        self._wanted = mode
        self._holder: subprocess.Popen[str] | None = None
        self._as_user = os.geteuid() != 0

    def __enter__(self) -> "Isolation":
        self._folder.mkdir(parents=True, exist_ok=True)
        for name, source in COPIES.items():
            shutil.copyfile(Path(__file__).with_name(source), self._folder / name)
        if self._wanted != "guard":
            self._holder = self._hold_namespace()
        if self._wanted == "namespace" and self._holder is None:
            raise OSError("no network namespace can be had here")
        return self

    def __exit__(self, *_: object) -> None:
        if self._holder is not None:
            _end(self._holder)

    @property
    def mode(self) -> Mode:
        return "guard" if self._holder is None else "namespace"

    def popen(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        output: IO[bytes] | int | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start `command` in `folder`, in a session of its own, its two outputs into `output`.

        `environment` is all it gets, PYTHONPATH included, apart from what isolates it. It ends
        with the thread that calls this.
        """
        parent = os.getpid()
        search = [str(self._folder), environment.get("PYTHONPATH", "")]
        isolated = {
            **environment,
            children.OWNER: children.owner(),
            "PYTHONPATH": os.pathsep.join(filter(None, search)),
            "MATHLLM_ISOLATION_HIDDEN": self._hidden,
            "MATHLLM_ISOLATION_READ_ONLY": os.pathsep.join(self._read_only),
            "MATHLLM_ISOLATION_ABSENT": self._absent,
        }
        if self.mode == "guard":
            proxies = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), NOWHERE)
            isolated |= {"MATHLLM_ISOLATION_GUARD": "1", "no_proxy": "localhost,127.0.0.1,::1"}
            isolated |= proxies | {name.upper(): url for name, url in proxies.items()}
        return subprocess.Popen(
            [*self._enter(folder), *command],
            env=isolated,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output is not None else None,
            start_new_session=True,
            preexec_fn=lambda: children.end_with(parent),
        )

    def _enter(self, folder: Path) -> list[str]:
        """What stands before a command, so that it runs in the namespace. It keeps its pid."""
        if self._holder is None:
            return []
        user = ["--user", "--preserve-credentials"] if self._as_user else []
        enter = ["nsenter", "--target", str(self._holder.pid), *user, "--net", "--mount", "--"]
        # A mount namespace is entered at its root.
        return [*enter, "sh", "-c", 'cd "$0" && exec "$@"', str(folder)]

    def _hold_namespace(self) -> "subprocess.Popen[str] | None":
        """A process that holds a namespace with loopback up; None where that cannot be had."""
        if not (shutil.which("unshare") and shutil.which("nsenter")):
            return None
        hosts = self._folder / "hosts"
        known = Path("/etc/hosts")
        text = known.read_text(encoding="utf-8") if known.is_file() else ""
        hosts.write_text(f"{text}\n127.0.0.1 {RERUN_HOST}\n", encoding="utf-8")
        user = ["--map-root-user"] if self._as_user else []
        holder = subprocess.Popen(
            [
                *("unshare", *user, "--net", "--mount"),
                *(sys.executable, "-I", "-c", _HOLDER, str(hosts), *self._read_only),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # so that Ctrl-C is the parent's to handle
        )
        if holder.stdout.readline().strip() == "up":
            return holder
        _end(holder)
        return None


def _end(holder: "subprocess.Popen[str]") -> None:
    with suppress(BrokenPipeError):
        holder.stdin.close()
    holder.stdout.close()
    holder.wait()
