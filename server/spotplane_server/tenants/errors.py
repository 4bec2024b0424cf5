"""Errors of tenants, environments and keys."""

from __future__ import annotations

from uuid import UUID

from spotplane_server.kernel.api import tenant_scope
from spotplane_server.kernel.errors import AlreadyExists, NotFound, Precondition

TenantNotFound = tenant_scope.TenantNotFound


class ApiKeyNotFound(NotFound):
    """The key does not exist or belongs to another tenant."""

    reason = "API_KEY_NOT_FOUND"

    def __init__(self, key_id: UUID) -> None:
        super().__init__("API key not found", key_id=str(key_id))


class EnvironmentNotFound(NotFound):
    """The tenant has no such environment."""

    reason = "ENVIRONMENT_NOT_FOUND"

    def __init__(self, environment_id: UUID) -> None:
        super().__init__("environment not found", environment_id=str(environment_id))


class EmailTaken(AlreadyExists):
    """Another tenant that is not deleted has the e-mail."""

    reason = "EMAIL_TAKEN"

    def __init__(self) -> None:
        super().__init__("another tenant has this e-mail")


class ClientExists(AlreadyExists):
    """Another tenant that is not deleted has the name."""

    reason = "CLIENT_EXISTS"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is a client of the name {name} already", name=name)


class ClientTokenNotFound(NotFound):
    """The tenant has no live client token."""

    reason = "API_KEY_NOT_FOUND"

    def __init__(self, tenant_id: UUID) -> None:
        super().__init__("the client has no live token", tenant_id=str(tenant_id))


class TenantDeleted(Precondition):
    """The tenant is deleted."""

    reason = "TENANT_DELETED"

    def __init__(self) -> None:
        super().__init__("the tenant is deleted")


class TenantAlreadySuspended(Precondition):
    """The tenant is suspended already."""

    reason = "TENANT_ALREADY_SUSPENDED"

    def __init__(self) -> None:
        super().__init__("the tenant is suspended already")


class TenantAlreadyActive(Precondition):
    """The tenant is active already."""

    reason = "TENANT_ALREADY_ACTIVE"

    def __init__(self) -> None:
        super().__init__("the tenant is active already")


class TenantNotActive(Precondition):
    """The tenant must be active for this."""

    reason = "TENANT_NOT_ACTIVE"

    def __init__(self, status: str) -> None:
        super().__init__(f"the tenant is {status}, not active", status=status)


class NoActiveEnvironment(Precondition):
    """The tenant has no active environment for the key."""

    reason = "NO_ACTIVE_ENVIRONMENT"

    def __init__(self) -> None:
        super().__init__(
            "no active environment for the key",
            suggestion="name an active environment as environment_id",
        )


class KeyRevoked(Precondition):
    """The key is revoked."""

    reason = "KEY_REVOKED"

    def __init__(self) -> None:
        super().__init__("the API key is revoked")


class KeyAlreadySuspended(Precondition):
    """The key is suspended on its own already."""

    reason = "KEY_ALREADY_SUSPENDED"

    def __init__(self) -> None:
        super().__init__("the API key is suspended already")


class KeyAlreadyActive(Precondition):
    """The key is active already."""

    reason = "KEY_ALREADY_ACTIVE"

    def __init__(self) -> None:
        super().__init__("the API key is active already")


class KeyNotActive(Precondition):
    """Only an active key without a successor can be rotated."""

    reason = "KEY_NOT_ACTIVE"

    def __init__(self, status: str) -> None:
        super().__init__(f"the API key is {status}, not active", status=status)
