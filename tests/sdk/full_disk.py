"""A small disk that tests fill and free."""

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SIZE_BYTES = 4 << 20


class SmallDisk:
    """A directory whose file system can be filled.

    With the right to mount it is a file system of its own. Otherwise files of this process cannot
    be written to while it is full, which SQLite reports as an I/O error.
    """

    def __init__(self, directory: Path, *, mounted: bool) -> None:
        self.directory = directory
        self._mounted = mounted
        self._limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self) -> None:
        """Leave no byte free."""
        if not self._mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, self._limits[1]))
            return
        with open(self.directory / "ballast", "ab", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(bytes(4096))

    def free(self) -> None:
        """Make room again."""
        if self._mounted:
            (self.directory / "ballast").unlink(missing_ok=True)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)


@contextmanager
def small_disk(directory: Path) -> Iterator[SmallDisk]:
    """A disk that is there for the block."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(directory)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, check=False).returncode == 0
    disk = SmallDisk(directory, mounted=mounted)
    try:
        yield disk
    finally:
        disk.free()
        if mounted:
            subprocess.run(["umount", "--lazy", str(directory)], check=True)
