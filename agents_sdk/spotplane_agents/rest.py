"""Client of the server's REST routes, with the standard library only."""

import asyncio
import json
import ssl
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import cached_property
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, HTTPSHandler, OpenerDirector, Request, build_opener

from spotplane_agents.clock import http_date
from spotplane_agents.errors import RestRefused, RestUnavailable

TIMEOUT_SECONDS: Final = 10.0
MAX_RESPONSE_BYTES: Final = 4 << 20
# One for each of the tasks that call, so that none waits for the response of another.
THREADS: Final = 8
# Statuses that may differ at the next attempt.
PASSING: Final = frozenset({408, 425, 429})


class _NoRedirects(HTTPRedirectHandler):
    """Follows no redirect: the key would be sent to the host that it names."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class Rest:
    """Client of the server's REST routes for one instance.

    Each call has its own connection, through the proxy of the environment, if any (``HTTPS_PROXY``,
    ``NO_PROXY``): REST has to work where long-lived connections do not.

    Args:
        base_url: For example ``https://plane.example.com``.
        api_key: As for the stream.
        instance_id: Sent with every call.
        root_certificates: PEM; default the system's.
    """

    def __init__(
        self, base_url: str, api_key: str, instance_id: str, root_certificates: bytes | None = None
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = {
            "Authorization": f"Bearer {api_key}",
            "X-Instance-Id": instance_id,
            "Accept": "application/json",
            "Content-Type": "application/json",
        }
        self._roots = root_certificates
        self.server_time: datetime | None = None
        """The server's time as the newest response gave it; None before the first."""
        self._threads = ThreadPoolExecutor(THREADS, "spotplane-rest")

    @cached_property
    def _opener(self) -> OpenerDirector:
        # Created on first use: most agents always have a stream, and loading the system's roots is
        # slow.
        roots = None if self._roots is None else self._roots.decode("ascii")
        context = ssl.create_default_context(cadata=roots)
        return build_opener(HTTPSHandler(context=context), _NoRedirects())

    def close(self) -> None:
        """Reject further calls."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Call a route and return its JSON.

        Raises:
            RestUnavailable: There was no response, or one that may differ at the next attempt.
            RestRefused: The server rejects this call permanently.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._call, method, path, body)

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        data = None if body is None else json.dumps(body, allow_nan=False).encode()
        request = Request(self._base_url + path, data, self._headers, method=method)
        try:
            with self._opener.open(request, timeout=TIMEOUT_SECONDS) as response:
                payload = response.read(MAX_RESPONSE_BYTES)
                self.server_time = http_date(response.headers["Date"])
        except HTTPError as error:
            with error:
                raise _failure(method, path, error.code, _code(error)) from None
        except HTTPException as error:
            raise RestUnavailable(f"{method} {path}: {type(error).__name__}") from None
        except OSError as error:
            raise RestUnavailable(f"{method} {path}: {error}") from error
        except ValueError:
            # A header that cannot be sent; the error's text would contain the key.
            raise RestUnavailable(f"{method} {path}: the address or the key is malformed") from None
        try:
            return json.loads(payload)
        except ValueError:
            raise RestUnavailable(f"{method} {path}: the response is no JSON") from None


def _failure(method: str, path: str, status: int, code: str) -> RestUnavailable | RestRefused:
    text = f"{method} {path}: {status} {code}".rstrip()
    # A response without a code is not the server's but that of a proxy. An internal error of the
    # server would repeat for ever; on the stream, the report is dropped then as well.
    if status in PASSING or status > 500 or code in {"", "CONFLICT"}:
        return RestUnavailable(text)
    return RestRefused(text, status, code)


def _code(error: HTTPError) -> str:
    """Return the server's error code; empty when the response is not the server's."""
    try:
        body = json.loads(error.read(MAX_RESPONSE_BYTES))
    except (OSError, HTTPException, ValueError):
        return ""
    found = body.get("code") if isinstance(body, dict) else None
    if found is None and isinstance(body, dict) and isinstance(body.get("error"), dict):
        found = body["error"].get("code")
    return found if isinstance(found, str) else ""
