"""What an installation gets, and what it is spared."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = {
    "spotplane": "proto/gen",
    "spotplane_agents": "agents_sdk",
    "spotplane_bench": "benchmarks",
    "spotplane_bridge": "bridge",
    "spotplane_migrations": "migrations",
    "spotplane_server": "server",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in the wheel built from this tree."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    subprocess.run([*build, str(out)], cwd=ROOT, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return set(archive.namelist())


def test_wheel_installs_our_packages_and_nothing_generic(wheel: set[str]) -> None:
    """No top-level name such as `tests` or `server` reaches site-packages."""
    names = {name.split("/")[0] for name in wheel}

    assert {n for n in names if not n.endswith(".dist-info")} == set(SOURCE_ROOTS)


@pytest.mark.parametrize("package", SOURCE_ROOTS)
def test_wheel_ships_every_file_of_a_package(wheel: set[str], package: str) -> None:
    """SQL, descriptors, templates and the typing marker travel with the code."""
    root = ROOT / SOURCE_ROOTS[package]
    kept = (p for p in (root / package).rglob("*") if p.is_file() and "__pycache__" not in p.parts)

    assert {str(path.relative_to(root)) for path in kept} <= wheel
    assert f"{package}/py.typed" in wheel


@pytest.mark.parametrize("package", SOURCE_ROOTS)
def test_source_root_holds_exactly_one_package(package: str) -> None:
    """An editable install puts no second name on the import path."""
    root = ROOT / SOURCE_ROOTS[package]

    assert {module.parent.name for module in root.glob("*/*.py")} == {package}


def test_lock_names_no_index() -> None:
    """The lock holds hashes only, so any index or mirror can serve it."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")

    assert "://" not in lock
    assert "--index-url" not in lock
    assert "--find-links" not in lock
