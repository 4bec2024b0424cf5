"""Generate the Python stubs and the descriptor set of every API file.

Usage: ``generate_protos.py [--check]``. Without ``--check`` the files under ``proto/gen`` are
brought up to date; with it nothing is written and any difference is an error.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCES: Final = ROOT / "proto"
GENERATED: Final = SOURCES / "gen"
DESCRIPTORS: Final = "spotplane/descriptors.binpb"

# Files protoc does not write, with their content.
PACKAGE_FILES: Final = {
    "spotplane/__init__.py": (
        '"""Generated stubs and descriptors of the Spotplane API; see `make proto`."""\n'
    ),
    "spotplane/py.typed": "",
    "spotplane/v1/__init__.py": '"""Version 1 of the Spotplane API."""\n',
    "spotplane/engine/__init__.py": '"""What remote decision engines implement."""\n',
    "spotplane/engine/v1/__init__.py": '"""Version 1 of the remote engine contract."""\n',
}


def generate(out: Path) -> None:
    """Write everything that belongs under ``proto/gen`` into ``out``.

    Raises:
        SystemExit: There is no API file, or protoc refused one; protoc has said why.
    """
    protos = sorted(str(p.relative_to(SOURCES)) for p in SOURCES.glob("spotplane/**/*.proto"))
    if not protos:
        sys.exit("no file matches proto/spotplane/**/*.proto")
    for name, content in PACKAGE_FILES.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    scripts = Path(sysconfig.get_path("scripts"))
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc"),
        f"--proto_path={SOURCES}",
        f"--proto_path={SOURCES / 'third_party'}",
        f"--proto_path={files('grpc_tools') / '_proto'}",
        f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
        f"--python_out={out}",
        f"--grpc_python_out={out}",
        f"--mypy_out=readable_stubs,quiet:{out}",
        # Nothing here calls gRPC synchronously, so the stubs offer the awaitable types only.
        f"--mypy_grpc_out=only_async,readable_stubs,quiet:{out}",
        # The bridge reads routes from the options; the OpenAPI text comes from the comments.
        f"--descriptor_set_out={out / DESCRIPTORS}",
        "--include_imports",
        "--include_source_info",
        *protos,
    ]
    if subprocess.run(command, check=False).returncode != 0:
        sys.exit("protoc failed")


def contents(folder: Path) -> dict[str, bytes]:
    """Read every file below ``folder``, keyed by its path; empty when there is no such folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def replace(folder: Path, fresh: Path, changed: list[str]) -> None:
    """Bring the ``changed`` files of ``folder`` to what ``fresh`` holds, each in one step."""
    for name in changed:
        source, target = fresh / name, folder / name
        if not source.exists():
            target.unlink()
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        # A rename, so that a process importing the stubs meanwhile never reads half a file.
        staged = target.with_name(f".{target.name}.new")
        shutil.copyfile(source, staged)
        os.replace(staged, target)


def main() -> None:
    """Generate, then write or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail on drift, write nothing")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as temporary:
        fresh = Path(temporary)
        generate(fresh)
        wanted, present = contents(fresh), contents(GENERATED)
        changed = sorted(n for n in wanted | present if wanted.get(n) != present.get(n))
        if check and changed:
            sys.exit("stubs are out of date, run `make proto`:\n  " + "\n  ".join(changed))
        if not check:
            replace(GENERATED, fresh, changed)
    print(f"proto: {len(wanted)} files, {'no drift' if check else f'{len(changed)} changed'}")


if __name__ == "__main__":
    main()
