"""NotificationService: what a person is told, and price alerts."""

from __future__ import annotations

from typing import Final
from uuid import uuid4

from spotplane.v1 import notification_pb2 as pb
from spotplane.v1 import notification_pb2_grpc

from spotplane_server import audit
from spotplane_server.agents.errors import UnknownPool
from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import paging, tenant_scope, wire
from spotplane_server.kernel.api.paging import PageTokens
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db import quotas
from spotplane_server.kernel.db.database import ALL_TENANTS, Conn, Database
from spotplane_server.kernel.errors import NotFound, Precondition
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.kernel.rpc.interceptor import Context
from spotplane_server.notifications import alerts_store, store
from spotplane_server.notifications.alert_rules import AlertType
from spotplane_server.notifications.alerts_store import Alert

MAX_PRICE_NANOUSD: Final = 100 * 10**9
_TYPES: Final[dict[int, AlertType]] = {
    pb.PRICING_ALERT_TYPE_PRICE_SPIKE: "price_spike",
    pb.PRICING_ALERT_TYPE_PRICE_DROP: "price_drop",
    pb.PRICING_ALERT_TYPE_THRESHOLD_ABOVE: "threshold_above",
    pb.PRICING_ALERT_TYPE_THRESHOLD_BELOW: "threshold_below",
}
_CHANNELS: Final = ("dashboard", "email")


class NotificationNotFound(NotFound):
    """There is no such notification, or the caller cannot see it."""

    reason = "NOTIFICATION_NOT_FOUND"


class PricingAlertNotFound(NotFound):
    """The tenant has no such alert."""

    reason = "PRICING_ALERT_NOT_FOUND"


class TooManyAlerts(Precondition):
    """The tenant has as many alerts as it may."""

    reason = "ALERT_LIMIT"


class NotificationService(notification_pb2_grpc.NotificationServiceServicer):
    """Shows what was told, and keeps what is to be told."""

    def __init__(self, db: Database, clock: Clock, tokens: PageTokens) -> None:
        self._db = db
        self._clock = clock
        self._tokens = tokens

    async def ListNotifications(
        self, request: pb.ListNotificationsRequest, context: Context
    ) -> pb.ListNotificationsResponse:
        reader = request_context.current().caller.tenant_id
        tenant_id = tenant_scope.tenant(request_context.current().caller, request)
        page = paging.read(
            request, self._tokens, default=10, maximum=100, filters={"tenant_id": tenant_id}
        )
        async with self._db.connection(tenant_id or ALL_TENANTS) as conn:
            await _check_claim(conn, reader, tenant_id)
            found = await store.list_page(conn, reader, tenant_id, page)
        items, pagination = paging.answer(
            page, found, self._tokens, key=lambda n: (n.created_at, n.id)
        )
        return pb.ListNotificationsResponse(
            notifications=[_notification(item) for item in items], pagination=pagination
        )

    async def MarkRead(self, request: pb.MarkReadRequest, context: Context) -> pb.MarkReadResponse:
        reader = request_context.current().caller.tenant_id
        found = wire.uuid(request.notification_id, "notification_id", "notification ID")
        async with self._db.transaction(reader or ALL_TENANTS) as conn:
            if not await store.mark_read(conn, reader, found, self._clock.now()):
                raise NotificationNotFound("notification not found", notification_id=str(found))
            owner = reader or await store.find_owner(conn, found)
            await self._audit_reading(conn, str(found), owner, 1)
        return pb.MarkReadResponse()

    async def MarkAllRead(
        self, request: pb.MarkAllReadRequest, context: Context
    ) -> pb.MarkAllReadResponse:
        reader = request_context.current().caller.tenant_id
        tenant_id = tenant_scope.tenant(request_context.current().caller, request)
        async with self._db.transaction(tenant_id or ALL_TENANTS) as conn:
            await _check_claim(conn, reader, tenant_id)
            marked = await store.mark_all_read(conn, reader, tenant_id, self._clock.now())
            await self._audit_reading(conn, "*", tenant_id, marked)
        return pb.MarkAllReadResponse(marked_count=marked)

    async def CreatePricingAlert(
        self, request: pb.CreatePricingAlertRequest, context: Context
    ) -> pb.PricingAlert:
        tenant_id = tenant_scope.required_tenant(request_context.current().caller, request)
        alert = self._read_alert(tenant_id, request)
        async with self._db.transaction(tenant_id) as conn:
            await tenant_scope.hold_tenant(conn, tenant_id)
            if alert.pool_id and not await alerts_store.pool_exists(conn, alert.pool_id):
                raise UnknownPool("nobody has reported this pool", field="pool_id")
            await _admit_alert(conn, tenant_id)
            made = await alerts_store.insert(conn, alert)
            shown = {"alert_type": made.alert_type, "threshold_nanousd": made.threshold_nanousd}
            change = audit.Change(
                "pricing_alert.create", "pricing_alert", str(made.id), tenant_id, after=shown
            )
            await audit.record(conn, request_context.current(), change, self._clock.now())
        request_context.created()
        return _alert(made)

    async def ListPricingAlerts(
        self, request: pb.ListPricingAlertsRequest, context: Context
    ) -> pb.ListPricingAlertsResponse:
        tenant_id = tenant_scope.required_tenant(request_context.current().caller, request)
        async with self._db.connection(tenant_id) as conn:
            await tenant_scope.check_tenant_exists(conn, tenant_id)
            found = await alerts_store.list_all(conn, tenant_id)
        return pb.ListPricingAlertsResponse(alerts=[_alert(alert) for alert in found])

    async def DeletePricingAlert(
        self, request: pb.DeletePricingAlertRequest, context: Context
    ) -> pb.DeletePricingAlertResponse:
        tenant_id = tenant_scope.required_tenant(request_context.current().caller, request)
        alert_id = wire.uuid(request.alert_id, "alert_id", "alert ID")
        async with self._db.transaction(tenant_id) as conn:
            if not await alerts_store.delete(conn, tenant_id, alert_id):
                raise PricingAlertNotFound("price alert not found", alert_id=str(alert_id))
            change = audit.Change("pricing_alert.delete", "pricing_alert", str(alert_id), tenant_id)
            await audit.record(conn, request_context.current(), change, self._clock.now())
        return pb.DeletePricingAlertResponse()

    async def _audit_reading(
        self, conn: Conn, named: str, tenant_id: TenantId | None, marked: int
    ) -> None:
        """Say that an administrator has read; that a tenant reads what it is told is no news."""
        call = request_context.current()
        if call.caller.kind == "admin" and marked:
            change = audit.Change(
                "notification.read", "notification", named, tenant_id, after={"marked": marked}
            )
            await audit.record(conn, call, change, self._clock.now())

    def _read_alert(self, tenant_id: TenantId, request: pb.CreatePricingAlertRequest) -> Alert:
        kind = _alert_type(request)
        if not request.HasField("threshold_nanousd"):
            raise wire.missing("threshold_nanousd")
        threshold = request.threshold_nanousd
        if not 0 < threshold <= MAX_PRICE_NANOUSD:
            raise wire.out_of_range("threshold_nanousd", "above 0 and at most 100 dollars an hour")
        channels = [
            wire.one_of(channel, "notification_channels", _CHANNELS)
            for channel in request.notification_channels
        ]
        return Alert(
            tenant_id,
            uuid4(),
            kind,
            threshold,
            wire.optional_text(request, "pool_id", maximum=128),
            sorted(set(channels)) or ["dashboard"],
            not request.HasField("enabled") or request.enabled,
            self._clock.now(),
        )


def _alert_type(request: pb.CreatePricingAlertRequest) -> AlertType:
    if not request.HasField("alert_type"):
        return "threshold_above"
    found = _TYPES.get(request.alert_type)
    if found is None:
        raise wire.out_of_range("alert_type", "a known type of alert")
    return found


async def _check_claim(conn: Conn, reader: TenantId | None, tenant_id: TenantId | None) -> None:
    """Check that the tenant which an administrator names exists."""
    if reader is None and tenant_id is not None:
        await tenant_scope.check_tenant_exists(conn, tenant_id)


def _notification(found: store.Notification) -> pb.Notification:
    return pb.Notification(
        id=str(found.id),
        message=found.message,
        severity=pb.Severity.Value(f"SEVERITY_{found.severity.upper()}"),
        is_read=found.is_read,
        create_time=wire.timestamp(found.created_at),
        tenant_id=str(found.tenant_id) if found.tenant_id else None,
    )


def _alert(found: Alert) -> pb.PricingAlert:
    return pb.PricingAlert(
        id=str(found.id),
        tenant_id=str(found.tenant_id),
        alert_type=pb.PricingAlertType.Value(f"PRICING_ALERT_TYPE_{found.alert_type.upper()}"),
        threshold_nanousd=found.threshold_nanousd,
        pool_id=found.pool_id,
        notification_channels=found.channels,
        enabled=found.enabled,
        create_time=wire.timestamp(found.created_at),
        last_trigger_time=wire.timestamp(found.last_triggered_at),
    )


async def _admit_alert(conn: Conn, tenant_id: TenantId) -> None:
    try:
        await quotas.admit(
            conn,
            tenant_id,
            "price_alerts",
            alerts_store.MAX_ALERTS,
            lambda: alerts_store.count(conn, tenant_id),
        )
    except quotas.QuotaExceeded as err:
        raise TooManyAlerts(err.message, metadata=err.metadata) from err
