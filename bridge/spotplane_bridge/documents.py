"""Routes that serve the API's description as JSON, YAML and an HTML page."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import orjson
import yaml
from aiohttp import web

from spotplane_bridge import openapi
from spotplane_bridge.legacy.routes import LegacyRoute
from spotplane_bridge.middleware import RequestContext
from spotplane_bridge.ops import OpsEndpoint
from spotplane_bridge.routes import Route

_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;color:#1c2024}
body{max-width:62rem;margin:2rem auto;padding:0 1rem}
h2{margin-top:2.5rem;border-bottom:1px solid #d8dce0}
details{border:1px solid #d8dce0;border-radius:6px;margin:.5rem 0;padding:.4rem .8rem}
summary{cursor:pointer}
summary b{display:inline-block;min-width:4.5rem}
code,pre{font:13px/1.45 ui-monospace,monospace;background:#f3f5f7;border-radius:4px}
code{padding:0 .2rem}
pre{padding:.6rem;overflow:auto}
table{border-collapse:collapse}
td{padding:.15rem .8rem .15rem 0;vertical-align:top}
"""


def document_endpoints(
    routes: Sequence[Route], declared: Sequence[LegacyRoute]
) -> list[OpsEndpoint]:
    """Return the endpoints of the API's description; each text is built once, on first request."""
    document = _Once(lambda: openapi.build(routes, declared))

    async def as_json() -> bytes:
        return orjson.dumps(await document())

    async def as_yaml() -> bytes:
        return await asyncio.to_thread(_yaml, await document())

    async def as_page() -> bytes:
        return page(await document()).encode()

    style = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{style}'; frame-ancestors 'none'"
    return [
        OpsEndpoint("/openapi.json", _text("application/json", as_json)),
        OpsEndpoint("/api/v1/admin/openapi.yaml", _text("application/yaml", as_yaml)),
        OpsEndpoint("/api-docs", _text("text/html; charset=utf-8", as_page, policy)),
    ]


class _Once:
    """A value that is computed once, in a thread, on first use."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: asyncio.Task[Any] | None = None

    async def __call__(self) -> Any:
        if self._made is None:
            self._made = asyncio.create_task(asyncio.to_thread(self._make))
        return await asyncio.shield(self._made)


def _text(
    kind: str, make: Callable[[], Awaitable[bytes]], policy: str | None = None
) -> Callable[[RequestContext], Awaitable[web.StreamResponse]]:
    made: bytes | None = None

    async def response(exchange: RequestContext) -> web.StreamResponse:
        nonlocal made
        if made is None:
            made = await make()
        if policy is not None:
            exchange.headers["Content-Security-Policy"] = policy
        return exchange.bytes_response(200, kind, made)

    return response


def _yaml(document: dict[str, Any]) -> bytes:
    # The C dumper is ten times faster, but not every build has it.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(
        orjson.loads(orjson.dumps(document)), Dumper=dumper, sort_keys=False, allow_unicode=True
    )
    return text.encode()


def page(document: dict[str, Any]) -> str:
    """Return the document as one self-contained HTML page, without scripts."""
    operations: dict[str, list[str]] = {tag["name"]: [] for tag in document["tags"]}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            operations[operation["tags"][0]].append(_operation(method.upper(), path, operation))
    sections = "".join(
        f"<h2>{html.escape(tag['name'])}</h2>{_prose(tag['description'])}"
        + "".join(operations[tag["name"]])
        for tag in document["tags"]
    )
    info = document["info"]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{info['title']} API</title><style>{_STYLE}</style></head><body>"
        f"<h1>{info['title']} API {html.escape(info['version'])}</h1>"
        f"{_prose(info['description'])}{sections}</body></html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{html.escape(p['name'])}</code></td><td>{p['in']}"
        f"{', required' if p['required'] else ''}</td><td>{_inline(p['description'])}</td></tr>"
        for p in operation.get("parameters", ())
    )
    body = _example("Request", operation.get("requestBody", {}))
    responses = "".join(
        _example(f"{status}", response) if status.startswith("2") else _line(status, response)
        for status, response in operation["responses"].items()
    )
    return (
        f"<details><summary><b>{method}</b> <code>{html.escape(path)}</code> "
        f"{_inline(operation['summary'])}</summary>{_prose(operation.get('description', ''))}"
        f"<table>{rows}</table>{body}{responses}</details>"
    )


def _example(title: str, holder: dict[str, Any]) -> str:
    if not holder:
        return ""
    parts = [f"<p><b>{title}</b> {_inline(holder.get('description', ''))}</p>"]
    for content in holder.get("content", {}).values():
        if "example" in content:
            text = orjson.dumps(content["example"], option=orjson.OPT_INDENT_2).decode()
            parts.append(f"<pre>{html.escape(text)}</pre>")
    return "".join(parts)


def _line(status: str, response: dict[str, Any]) -> str:
    return f"<p><b>{status}</b> {_inline(response['description'])}</p>"


def _prose(text: str) -> str:
    return "".join(f"<p>{_inline(part)}</p>" for part in text.split("\n\n") if part)


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
