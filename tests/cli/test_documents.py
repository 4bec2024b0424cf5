"""Documents that follow from the code are what the code says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from spotplane_server.config import ServerConfig

from tests.support.command import spotplane

ROOT = Path(__file__).resolve().parents[2]


def test_errors_page_has_every_reason() -> None:
    """One line for each, made from its comment."""
    script = ROOT / "scripts" / "generate_error_docs.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, check=False, text=True
    )

    assert done.returncode == 0, done.stderr


def test_operations_page_names_every_setting() -> None:
    """Of the server and of the bridge."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    bridge = (ROOT / "bridge" / "spotplane_bridge" / "config.py").read_text(encoding="utf-8")
    settings = {f"SPOTPLANE_{item.name.upper()}" for item in fields(ServerConfig)}
    settings |= set(re.findall(r'"(SPOTPLANE_\w+)"', bridge))

    assert {name for name in settings if f"`{name}`" not in page} == set()


def test_links_of_the_pages_lead_somewhere() -> None:
    """Within the repository; a moved file takes its links along."""
    pages = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *(ROOT / "docs").rglob("*.md")]
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]

    assert broken == []


async def test_openapi_document_is_printed() -> None:
    """The same document that a running bridge serves."""
    document = json.loads((await spotplane("openapi")).out)

    assert document["openapi"].startswith("3.1")
    assert "/admin/tenants/{id}" in document["paths"]


async def test_edge_configuration_is_printed_and_written(tmp_path: Path) -> None:
    """Printed, it is the kept one; written, it has its descriptors beside it."""
    printed = await spotplane("envoy", "--as", "/etc/envoy")
    written = await spotplane("envoy", str(tmp_path / "edge"))

    assert printed.out == (ROOT / "envoy" / "envoy.yaml").read_text(encoding="utf-8")
    assert written.status == 0
    assert {path.name for path in (tmp_path / "edge").iterdir()} == {
        "envoy.yaml",
        "descriptors.binpb",
    }
