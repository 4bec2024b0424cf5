"""Confines the calling process: no files, no network, no other processes, bounded resources.

Several layers, each of which is enough for most attacks, because not every kernel and container
allows each of them: an unprivileged user in an empty directory, an empty network namespace, no
free descriptor, Landlock, and a list of allowed system calls.
"""

from __future__ import annotations

import os
import resource
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spotplane_server.decisions.confined import kernel_filters

# Users that systemd gives to services without an account; one for each process, so that two of
# them cannot reach each other.
_FIRST_USER: Final = 61184
_USERS: Final = 4336


@dataclass(frozen=True, slots=True)
class Confinement:
    """The layers that are in force.

    Attributes:
        unprivileged: The process does not run as root.
        network_namespace: It has a network of its own, without interfaces.
        landlock: Version of Landlock's ABI; 0 without.
        seccomp: Whether system calls are filtered.
    """

    unprivileged: bool
    network_namespace: bool
    landlock: int
    seccomp: bool

    @property
    def by_kernel(self) -> bool:
        """Whether the kernel denies files and sockets by rule, and not only for want of rights."""
        return self.seccomp or self.landlock > 0


def confine(memory_bytes: int, cpu_seconds: int) -> Confinement:
    """Give up everything but the open descriptors, for good.

    All modules must have been imported, and the process must have one thread only.

    Args:
        memory_bytes: Address space on top of what is in use.
        cpu_seconds: Processor time on top of what was used.
    """
    address_space = _address_space()
    _enter_empty_directory()
    network_namespace = _succeeds(kernel_filters.leave_network)
    if os.geteuid() == 0:
        _succeeds(lambda: os.chroot("."))
        _succeeds(_become_unprivileged)
    _succeeds(kernel_filters.forbid_privileges)
    landlock = 0
    with suppress(OSError):
        landlock = kernel_filters.forbid_files()
    _limit(address_space + memory_bytes, cpu_seconds)
    unprivileged = os.geteuid() != 0
    seccomp = _succeeds(kernel_filters.forbid_system_calls)
    return Confinement(unprivileged, network_namespace, landlock, seccomp)


def list_allowed() -> list[str]:
    """Try what must fail in a confined process; return what succeeded."""

    def start_process() -> None:
        if os.fork() == 0:
            os._exit(0)

    attempts: dict[str, Callable[[], object]] = {
        "read a file": lambda: Path("/proc/self/status").read_bytes(),
        "list a directory": lambda: os.listdir("/"),
        "write a file": lambda: Path("written").write_bytes(b""),
        "open a network socket": lambda: socket.socket(socket.AF_INET),
        "open a local socket": lambda: socket.socket(socket.AF_UNIX),
        "start a process": start_process,
    }
    return [name for name, attempt in attempts.items() if _succeeds(attempt)]


def _become_unprivileged() -> None:
    user = _FIRST_USER + os.getpid() % _USERS
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def _enter_empty_directory() -> None:
    """Work in a directory that is removed already: nothing can be found or made in it."""
    with suppress(OSError):
        path = tempfile.mkdtemp(prefix="spotplane-")
        os.chdir(path)
        os.rmdir(path)


def _limit(address_space: int, cpu_seconds: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = round(used.ru_utime + used.ru_stime) + cpu_seconds
    for limit, most in (
        (resource.RLIMIT_AS, address_space),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        # No new descriptor: neither a file nor a socket can be opened.
        (resource.RLIMIT_NOFILE, 0),
    ):
        resource.setrlimit(limit, (most, most))


def _address_space() -> int:
    """Bytes of address space in use."""
    pages = int(Path("/proc/self/statm").read_bytes().split()[0])
    return pages * resource.getpagesize()


def _succeeds(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError:
        return False
    return True
