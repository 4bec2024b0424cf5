"""How tests speak the JSON of the field, and how they say which route they stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from aiohttp import ClientSession

from tests.legacy import contract
from tests.support.plane import ADMIN_TOKEN, Plane, Tenant

T = TypeVar("T")

ADMIN: Final = "admin"
NOBODY: Final = "nobody"
UNKNOWN_ID: Final = contract.UNKNOWN_ID
# Who calls: a tenant, a token, the administrator, nobody, or the field's own tenant.
By = Tenant | str | None


def covers(_routes: str, _kind: Literal["good", "bad", "foreign"]) -> Callable[[T], T]:
    """Say which routes a test stands for: ``@covers("17 18", "foreign")``.

    `test_every_route.py` reads these words and misses the ones that are not there. ``good`` is an
    answer in its exact JSON, ``bad`` a refused input, ``foreign`` another tenant's object.
    """
    return lambda test: test


@dataclass(frozen=True)
class Field:
    """A plane behind its bridge, and those who call it.

    Attributes:
        plane: The server, whose stubs prepare what a route shows.
        http: A session on the bridge.
        tenant: Whose key calls are made with, unless a test says otherwise; role ``admin``.
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
        """Call a route and give its JSON.

        Args:
            method: HTTP method.
            path: Path with its query.
            body: JSON of the body; none is sent for None.
            status: What must be answered.
            by: Who calls; the field's tenant when left out, `ADMIN`, `NOBODY`, or a token.
            headers: Besides the credential.
        """
        async with self.send(method, path, body, by=by, headers=headers) as answer:
            said = await answer.json()
            assert answer.status == status, (answer.status, said)
            return said

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
        """Expect an error of a code, in the whole shape of this family; ``status`` is needed."""
        said = await self.call(method, path, body, **how)
        assert (said["status"], said["data"], said["code"]) == ("error", None, code), said
        assert isinstance(said["error"], str)
        assert said["correlation_id"]
        return said

    def _credential(self, by: By) -> dict[str, str]:
        if by == NOBODY:
            return {}
        if by == ADMIN:
            return {"X-Admin-Token": ADMIN_TOKEN}
        token = by if isinstance(by, str) else (by or self.tenant).key
        return {"Authorization": f"Bearer {token}"}
