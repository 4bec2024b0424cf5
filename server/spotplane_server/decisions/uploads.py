"""Uploaded files: recognized by their content, and made engines of; none is ever executed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Final

import orjson

from spotplane_server.decisions import candidates
from spotplane_server.decisions.engine import Decision, Engine, Snapshot
from spotplane_server.decisions.engine_uploads_store import Content, Format
from spotplane_server.decisions.engines import cel
from spotplane_server.decisions.engines.onnx import OnnxModel
from spotplane_server.decisions.engines.uploaded import UploadedEngine, UploadInvalid
from spotplane_server.decisions.errors import MalformedModel, UnsupportedFormat

MAX_FILES: Final = 8
MAX_BYTES: Final = 100 * 1024 * 1024
MAX_RULES_BYTES: Final = 1024 * 1024
HINT: Final = (
    "upload an ONNX model (export with skl2onnx, torch.onnx.export or tf2onnx) or a JSON rule set,"
    " or install the engine through the entry-point group spotplane.engines"
)
# How files of formats begin that run code when they are loaded, whatever they are called.
_REFUSED_STARTS: Final = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
_REFUSED_STARTS_TOO: Final = (b"\x89HDF\r\n\x1a\n", b"\x1f\x8b", b"x\x9c", b"#!")
_SUFFIXES: Final[dict[str, Format]] = {".onnx": "onnx", ".json": "cel"}


class Chain:
    """Several files of one session: the first that would not stay decides."""

    hedges = False

    def __init__(self, name: str, version: str, engines: Sequence[Engine]) -> None:
        self.name = name
        self.version = version
        self.engines = engines

    def decide(self, snapshot: Snapshot) -> Decision:
        """Answer for a snapshot; a failure of any file is the session's."""
        answer = candidates.stay(snapshot, 0.6, "no file decides")
        for engine in self.engines:
            answer = engine.decide(snapshot)
            if answer.action != "stay":
                break
        return answer


def content_of(name: str, data: bytes) -> Content:
    """Tell what a file is.

    Raises:
        UnsupportedFormat: Neither its content nor its name is of a format that is taken.
    """
    suffix = name[name.rfind(".") :].lower() if "." in name else ""
    wanted = _SUFFIXES.get(suffix)
    if wanted is None or data.startswith(_REFUSED_STARTS + _REFUSED_STARTS_TOO):
        raise _unsupported(name)
    if _is_json(data) != (wanted == "cel"):
        raise _unsupported(name)
    return Content(name, wanted, hashlib.sha256(data).digest(), data)


async def build(name: str, version: str, files: Sequence[Content]) -> Engine:
    """Make an engine of a session's files, each checked; close it by `close`.

    Raises:
        MalformedModel: One of them cannot be used; what was loaded before it is closed.
    """
    engines: list[Engine] = []
    try:
        for file in files:
            engines.append(await _load(name, version, file))  # noqa: PERF401 - closed when one fails
    except MalformedModel:
        for engine in engines:
            await close(engine)
        raise
    return engines[0] if len(engines) == 1 else Chain(name, version, engines)


async def close(engine: Engine) -> None:
    """End an engine's processes."""
    for part in engine.engines if isinstance(engine, Chain) else [engine]:
        if isinstance(part, UploadedEngine):
            await asyncio.to_thread(part.close)


async def _load(name: str, version: str, file: Content) -> Engine:
    try:
        return await asyncio.to_thread(_loaded, name, version, file)
    except UploadInvalid as err:
        raise MalformedModel(f"{file.name[:100]}: {err}", suggestion=HINT) from err


def _loaded(name: str, version: str, file: Content) -> UploadedEngine:
    engine: UploadedEngine
    if file.format == "cel":
        engine = cel.parse(file.data)
        engine.name, engine.version = name, version
    else:
        engine = OnnxModel(name, version, file.data)
    engine.load()
    return engine


def names_of(files: Sequence[Content]) -> tuple[str, str]:
    """Name and version that a session has when the uploader gives none."""
    first = files[0]
    version = hashlib.sha256(b"".join(file.sha256 for file in files)).hexdigest()[:12]
    if first.format == "cel":
        document = orjson.loads(first.data)
        if isinstance(document, dict):
            name, said = document.get("name"), document.get("version")
            if isinstance(name, str) and isinstance(said, str) and name and said:
                return name[:64], said[:64]
    return first.name.rpartition(".")[0][:64] or first.name[:64], version


def _is_json(data: bytes) -> bool:
    if data.lstrip()[:1] != b"{" or len(data) > MAX_RULES_BYTES:
        return False
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True


def _unsupported(name: str) -> UnsupportedFormat:
    return UnsupportedFormat(
        f"{name[:100]} is neither an ONNX model nor a JSON rule set", suggestion=HINT
    )
