"""Files: nothing outside a few folders is read, nothing outside its own is written.

Standard library only. Needs no rights. Says 0 where there is none.
"""

import ctypes
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION_FLAG = 1
PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
TRUNCATE, IOCTL_DEVICE = 1 << 14, 1 << 15
FOR_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEVICE
# All rights over files that a version knows are the bits below this one; what is known and
# not granted is refused.
RIGHTS_KNOWN = {1: 13, 2: 14, 3: 15, 4: 15}
RIGHTS_KNOWN_LATER = 16
TCP = 0b11  # bind and connect, from version 4
SCOPES = 0b11  # abstract Unix sockets and signals of others, from version 6
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


def confine(readable: Sequence[str], writable: Sequence[str]) -> int:
    """Landlock's version where the rules hold for this thread and its children, else 0.

    `readable` may be read, below it included; `writable` may be changed as well. Nothing may
    be executed. Call `limits.no_new_privileges` before.
    """
    if sys.platform != "linux":
        return 0
    system = ctypes.CDLL(None, use_errno=True).syscall
    version = system(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION_FLAG)
    if version < 1:
        return 0
    known = (1 << RIGHTS_KNOWN.get(version, RIGHTS_KNOWN_LATER)) - 1
    attributes = struct.pack(
        "QQQ", known, TCP if version >= 4 else 0, SCOPES if version >= 6 else 0
    )
    # An older kernel takes zeros behind what it knows, and nothing else.
    ruleset = system(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return 0
    try:
        reading = READ_FILE | READ_DIR
        for path in readable:
            _allow(system, ruleset, path, reading)
        for path in writable:
            _allow(system, ruleset, path, known & ~(EXECUTE | IOCTL_DEVICE))
        for path in DEVICES:
            _allow(system, ruleset, path, (READ_FILE | WRITE_FILE | TRUNCATE) & known)
        return version if system(RESTRICT_SELF, ruleset, 0) == 0 else 0
    finally:
        os.close(ruleset)


def _allow(system: "ctypes._NamedFuncPointer", ruleset: int, path: str, rights: int) -> None:
    """Grant rights below a path; one that is not there grants nothing."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not Path(path).is_dir():
            rights &= FOR_FILES
        rule = struct.pack("=Qi", rights, descriptor)
        system(ADD_RULE, ruleset, PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)
