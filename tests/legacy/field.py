"""JSON client of the legacy API for tests, and the marker of the routes that a test covers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from aiohttp import ClientSession

from tests.legacy import contract
from tests.support.plane import ADMIN_TOKEN, Plane, Tenant

T = TypeVar("T")

ADMIN: Final = "admin"
ANONYMOUS: Final = "nobody"
UNKNOWN_ID: Final = contract.UNKNOWN_ID
# Callers: a tenant, a token, the administrator, an anonymous caller, or the default tenant.
By = Tenant | str | None


def covers(_routes: str, _kind: Literal["good", "bad", "foreign"]) -> Callable[[T], T]:
    """Mark the routes that a test covers: ``@covers("17 18", "foreign")``.

    `test_every_route.py` reads these marks and reports missing ones. ``good`` is a response in its
    exact
    JSON, ``bad`` a rejected input, ``foreign`` another tenant's object.
    """
    return lambda test: test


@dataclass(frozen=True)
class Field:
    """A server behind its bridge, and its callers.

    Attributes:
        plane: The server; its stubs prepare the data that a route shows.
        http: A session on the bridge.
        tenant: The default caller; its key has role ``admin``.
        foreign: Another tenant, which must see nothing of the first.
    """

    plane: Plane
    http: ClientSession
    tenant: Tenant
    foreign: Tenant

    async def get(self, path: str, *, status: int = 200, **how: Any) -> Any:
        """GET a path and expect a status; the arguments are those of `call`."""
        return await self.call("GET", path, status=status, **how)

    async def post(self, path: str, body: Any = None, *, status: int = 200, **how: Any) -> Any:
        """POST to a path and expect a status."""
        return await self.call("POST", path, body, status=status, **how)

    async def put(self, path: str, body: Any = None, *, status: int = 200, **how: Any) -> Any:
        """PUT to a path and expect a status."""
        return await self.call("PUT", path, body, status=status, **how)

    async def delete(self, path: str, *, status: int = 200, **how: Any) -> Any:
        """DELETE a path and expect a status."""
        return await self.call("DELETE", path, status=status, **how)

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        status: int = 200,
        by: By = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """Call a route and return its JSON.

        Args:
            method: HTTP method.
            path: Path with its query.
            body: JSON of the body; none is sent for None.
            status: Expected status.
            by: The caller; the default tenant when left out, `ADMIN`, `ANONYMOUS`, or a token.
            headers: Headers besides the credential.
        """
        async with self.send(method, path, body, by=by, headers=headers) as answer:
            reply = await answer.json()
            assert answer.status == status, (answer.status, reply)
            return reply

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        by: By = None,
        headers: dict[str, str] | None = None,
        **how: Any,
    ) -> Any:
        """Call a route, for tests that look at headers or bytes: ``async with field.send(…)``."""
        sent = {**self._credential(by), **(headers or {})}
        return self.http.request(method, path, json=body, headers=sent, **how)

    async def refused(self, code: str, method: str, path: str, body: Any = None, **how: Any) -> Any:
        """Expect an error with a code, in the legacy format; ``status`` is needed."""
        reply = await self.call(method, path, body, **how)
        assert (reply["status"], reply["data"], reply["code"]) == ("error", None, code), reply
        assert isinstance(reply["error"], str)
        assert reply["correlation_id"]
        return reply

    def _credential(self, by: By) -> dict[str, str]:
        if by == ANONYMOUS:
            return {}
        if by == ADMIN:
            return {"X-Admin-Token": ADMIN_TOKEN}
        token = by if isinstance(by, str) else (by or self.tenant).key
        return {"Authorization": f"Bearer {token}"}
