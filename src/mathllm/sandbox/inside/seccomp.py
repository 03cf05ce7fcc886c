"""System calls: no network, no other process, no rights, no change of modes and owners.

Standard library only. Needs no rights. What Landlock does not know of is refused here:
programs, signals, modes.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
ALLOW, KILL = 0x7FFF0000, 0x80000000
LOAD, AND, EQUAL, AT_LEAST, RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
NUMBER, MACHINE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
X32 = 0x40000000  # a second set of numbers on x86_64, with which names could be passed by
# Calls from here on are younger than this table. Callers know how to do without them.
UNKNOWN_FROM = 450

AF_UNIX, DATAGRAM, SOCKET_KIND = 1, 2, 0xF
CLONE_THREAD = 0x10000
# Who gets signals about a descriptor, and which: a way to signal others.
FCNTL_OWNERS = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX
# Who opens a file with a lease on it waits for the holder, up to 45 s.
FCNTL_REFUSED = (*FCNTL_OWNERS, 1024, 1026)  # F_SETLEASE, F_NOTIFY
IOCTL_OWNERS = (0x8901, 0x8902, 0x5412)  # FIOSETOWN, SIOCSPGRP, TIOCSTI
PRCTL_REFUSED = (1, 4, 35, 0x59616D61)  # death signal, dumpable, memory map, tracer

# Numbers on x86_64 and aarch64.
REFUSED: dict[str, tuple[int | None, int | None]] = {
    # Programs and processes. clone is looked at below: threads are allowed.
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "setpgid": (109, 154),
    "setsid": (112, 157),
    "personality": (135, 92),
    # The kernel's channels are bound, never connected.
    "connect": (42, 203),
    # Memory that outlives a process or passes its limits by.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    # Other processes.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "tkill": (200, 130),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "mknod": (133, None),
    "mknodat": (259, 33),
    # Mounts and namespaces.
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    # Doors that pass this filter or the system's checks by.
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "modify_ldt": (154, None),
    "iopl": (172, None),
    "ioperm": (173, None),
    # The machine itself.
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "vhangup": (153, 58),
}
# Said to be done and not done: libraries that copy a file or start a thread end with these,
# and nothing hangs on them. Modes, owners, times and attributes of files, which Landlock
# leaves alone, and who gets the processor first.
PRETENDED: dict[str, tuple[int | None, int | None]] = {
    "setpriority": (141, 140),
    "sched_setaffinity": (203, 122),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
}
SOCKETS = {"socket": (41, 198), "socketpair": (53, 199)}
CLONE, CLONE3 = (56, 220), (435, 435)
SIGNALS = {
    "kill": (62, 129),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
}
PRLIMIT, PRCTL, FCNTL, IOCTL = (302, 261), (157, 167), (72, 25), (16, 29)

Step = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


def confine() -> bool:
    """Whether the filter holds for this thread and its children.

    Call `limits.no_new_privileges` before.
    """
    if sys.platform != "linux" or platform.machine() not in MACHINES or sys.maxsize < 1 << 32:
        return False
    steps = program(platform.machine(), os.getpid())

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))

    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    pointer = Program(len(steps), ctypes.addressof(code))
    prctl = ctypes.CDLL(None).prctl
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(pointer), 0, 0) == 0


def program(machine: str, pid: int) -> list[Step]:
    """The filter for a process of this number on this machine, read from top to bottom."""
    name, column = MACHINES[machine]
    steps = [(LOAD, 0, 0, MACHINE), (EQUAL, 1, 0, name), (RETURN, 0, 0, KILL)]
    steps += [(LOAD, 0, 0, NUMBER)]
    steps += _when(AT_LEAST, X32, [_refuse(errno.EPERM)])
    steps += _when(AT_LEAST, UNKNOWN_FROM, [_refuse(errno.ENOSYS)])
    for calls, error in ((REFUSED, errno.EPERM), (PRETENDED, 0)):
        for numbers in calls.values():
            if (number := numbers[column]) is not None:
                steps += _when(EQUAL, number, [_refuse(error)])
    for numbers in SOCKETS.values():
        # Unix sockets that are connected or bound; a datagram could be sent to anyone's.
        body = [*_only(0, [AF_UNIX], errno.EAFNOSUPPORT), (LOAD, 0, 0, ARGUMENTS + 8)]
        body += [(AND, 0, 0, SOCKET_KIND), *_when(EQUAL, DATAGRAM, [_refuse(errno.EPERM)])]
        steps += _when(EQUAL, numbers[column], [*body, (RETURN, 0, 0, ALLOW)])
    # Threads are the one thing that may be cloned. clone3 hides its flags in memory, where no
    # filter can look; callers take clone instead when it is not there.
    body = [(LOAD, 0, 0, ARGUMENTS), (AND, 0, 0, CLONE_THREAD)]
    body += [*_when(EQUAL, 0, [_refuse(errno.EPERM)]), (RETURN, 0, 0, ALLOW)]
    steps += _when(EQUAL, CLONE[column], body)
    steps += _when(EQUAL, CLONE3[column], [_refuse(errno.ENOSYS)])
    for numbers in SIGNALS.values():
        body = [*_only(0, [pid], errno.EPERM), (RETURN, 0, 0, ALLOW)]
        steps += _when(EQUAL, numbers[column], body)
    body = [*_only(0, [0, pid], errno.EPERM), (RETURN, 0, 0, ALLOW)]
    steps += _when(EQUAL, PRLIMIT[column], body)
    for call, argument, values in (
        (PRCTL, 0, PRCTL_REFUSED),
        (FCNTL, 1, FCNTL_REFUSED),
        (IOCTL, 1, IOCTL_OWNERS),
    ):
        body = [(LOAD, 0, 0, ARGUMENTS + 8 * argument)]
        for value in values:
            body += _when(EQUAL, value, [_refuse(errno.EPERM)])
        steps += _when(EQUAL, call[column], [*body, (RETURN, 0, 0, ALLOW)])
    return [*steps, (RETURN, 0, 0, ALLOW)]


def _when(test: int, value: int, body: list[Step]) -> list[Step]:
    """Do `body`, which ends in a return, where the loaded value passes the test."""
    return [(test, 0, len(body), value), *body]


def _only(argument: int, values: list[int], error: int) -> list[Step]:
    """Refuse unless the low half of an argument is one of `values`."""
    tests = [(EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [(LOAD, 0, 0, ARGUMENTS + 8 * argument), *tests, _refuse(error)]


def _refuse(error: int) -> Step:
    """Answer in the system's place; with error 0, as if it had been done."""
    return (RETURN, 0, 0, 0x00050000 | error)
