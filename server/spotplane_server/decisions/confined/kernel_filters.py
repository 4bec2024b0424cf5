"""Landlock and seccomp through the kernel's own interface; Linux on x86-64 and ARM64.

Both are part of the kernel's stable ABI (landlock(7), seccomp(2)), and what is needed of them here
is one rule set without exceptions and one list of system calls.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Sequence
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)

_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_DUMPABLE: Final = 4
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CAPABILITY_VERSION_3: Final = 0x20080522
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000

# The same number on every architecture.
_LANDLOCK_CREATE_RULESET: Final = 444
_LANDLOCK_RESTRICT_SELF: Final = 446
_LANDLOCK_CREATE_RULESET_VERSION: Final = 1
# Rights by the ABI version that added them: files 1, rename and link 2, truncate 3, TCP 4, ioctl 5,
# abstract UNIX sockets and signals 6.
_FS_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NET_RIGHTS: Final = 0b11
_SCOPES: Final = 0b11

_SECCOMP_SET_MODE_FILTER: Final = 1
_SECCOMP_FILTER_FLAG_TSYNC: Final = 1
_RET_KILL_PROCESS: Final = 0x80000000
_RET_ALLOW: Final = 0x7FFF0000
_RET_EPERM: Final = 0x00050001

# What evaluating needs: read and write of open descriptors, memory, time, and to end. Everything
# else, above all opening files, sockets, new processes and threads, fails with EPERM.
_ALLOWED: Final[dict[str, tuple[int, dict[str, int]]]] = {
    "x86_64": (
        0xC000003E,
        {
            "seccomp": 317,
            "read": 0,
            "write": 1,
            "close": 3,
            "fstat": 5,
            "lseek": 8,
            "mmap": 9,
            "mprotect": 10,
            "munmap": 11,
            "brk": 12,
            "rt_sigaction": 13,
            "rt_sigprocmask": 14,
            "rt_sigreturn": 15,
            "sched_yield": 24,
            "mremap": 25,
            "madvise": 28,
            "getpid": 39,
            "exit": 60,
            "gettimeofday": 96,
            "getrusage": 98,
            "sysinfo": 99,
            "sigaltstack": 131,
            "gettid": 186,
            "futex": 202,
            "restart_syscall": 219,
            "clock_gettime": 228,
            "exit_group": 231,
            "getrandom": 318,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "seccomp": 277,
            "close": 57,
            "lseek": 62,
            "read": 63,
            "write": 64,
            "fstat": 80,
            "exit": 93,
            "exit_group": 94,
            "futex": 98,
            "clock_gettime": 113,
            "sched_yield": 124,
            "restart_syscall": 128,
            "sigaltstack": 132,
            "rt_sigaction": 134,
            "rt_sigprocmask": 135,
            "rt_sigreturn": 139,
            "getrusage": 165,
            "gettimeofday": 169,
            "getpid": 172,
            "gettid": 178,
            "sysinfo": 179,
            "brk": 214,
            "munmap": 215,
            "mremap": 216,
            "mmap": 222,
            "mprotect": 226,
            "madvise": 233,
            "getrandom": 278,
        },
    ),
}


def forbid_privileges() -> None:
    """Drop all capabilities for good, and keep other processes of the user from attaching.

    Raises:
        OSError: The kernel refused.
    """
    _check(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _check(_LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))
    _check(_LIBC.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _check(_LIBC.capset(header, struct.pack("=6I", *[0] * 6)))


def leave_network() -> None:
    """Move to a network namespace without interfaces.

    Raises:
        OSError: The kernel refused; many containers do not allow it.
    """
    own_users = 0 if os.geteuid() == 0 else _CLONE_NEWUSER
    _check(_LIBC.unshare(_CLONE_NEWNET | own_users))


def forbid_files() -> int:
    """Deny this thread every file, TCP port, and what else Landlock knows; return its ABI version.

    Raises:
        OSError: The kernel has no Landlock, or it is off.
    """
    none = ctypes.c_size_t(0)
    abi = _check(
        _LIBC.syscall(_LANDLOCK_CREATE_RULESET, None, none, _LANDLOCK_CREATE_RULESET_VERSION)
    )
    rights = (1 << _FS_RIGHTS[min(abi, max(_FS_RIGHTS))]) - 1
    # Fields that a kernel does not know must be zero.
    attributes = struct.pack(
        "=QQQ", rights, _NET_RIGHTS if abi >= 4 else 0, _SCOPES if abi >= 6 else 0
    )
    size = ctypes.c_size_t(len(attributes))
    ruleset = _check(_LIBC.syscall(_LANDLOCK_CREATE_RULESET, attributes, size, 0))
    try:
        _check(_LIBC.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return abi


def forbid_system_calls() -> None:
    """Deny this process every system call but those that evaluating needs.

    Raises:
        OSError: The kernel has no seccomp filters, or the architecture is not known here.
    """
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _ALLOWED:
        raise OSError(f"no list of system calls for {sys.platform} on {machine}")
    architecture, calls = _ALLOWED[machine]
    program = _program(architecture, sorted(calls.values()))
    code = ctypes.create_string_buffer(b"".join(program))
    filters = struct.pack("@HP", len(program), ctypes.addressof(code))
    flags = ctypes.c_uint(_SECCOMP_FILTER_FLAG_TSYNC)
    _check(_LIBC.syscall(calls["seccomp"], _SECCOMP_SET_MODE_FILTER, flags, filters))


def _program(architecture: int, allowed: Sequence[int]) -> list[bytes]:
    """The filter: the architecture must match, then the number must be one of the list."""
    load, equal, ret = 0x20, 0x15, 0x06
    count = len(allowed)
    return [
        _instruction(load, 4),
        _instruction(equal, architecture, 1),
        _instruction(ret, _RET_KILL_PROCESS),
        _instruction(load, 0),
        *(_instruction(equal, number, count - index) for index, number in enumerate(allowed)),
        _instruction(ret, _RET_EPERM),
        _instruction(ret, _RET_ALLOW),
    ]


def _instruction(code: int, value: int, skip_if_true: int = 0) -> bytes:
    return struct.pack("=HBBI", code, skip_if_true, 0, value)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
