"""Routes of notifications and price alerts."""

from __future__ import annotations

from typing import Final

from spotplane_bridge.legacy.requests import parameter
from spotplane_bridge.legacy.response_shapes import Array, Shape, optional
from spotplane_bridge.legacy.routes import LegacyRoute, route

NOTIFICATION: Final = Shape(
    id="id",
    message="message",
    severity="severity",
    isRead="is_read",
    time="create_time",
    client_id=optional("tenant_id"),
)
ALERT: Final = Shape(
    alert_id="id",
    alert_type="alert_type",
    threshold="threshold_nanousd",
    enabled="enabled",
    pool_id=optional("pool_id"),
    notification_channels="notification_channels",
    created_at="create_time",
    last_triggered_at=optional("last_trigger_time"),
)

ROUTES: Final[tuple[LegacyRoute, ...]] = (
    route(
        "64",
        "GET /api/notifications",
        "NotificationService.ListNotifications",
        Array("notifications", NOTIFICATION),
        query=(parameter("client_id", field="tenant_id"), "limit", "cursor"),
    ),
    route(
        "65",
        "POST /api/notifications/{notification_id}/mark-read",
        "NotificationService.MarkRead",
        Shape(success=True),
    ),
    route(
        "66",
        "POST /api/notifications/mark-all-read",
        "NotificationService.MarkAllRead",
        Shape(success=True, marked_count="marked_count"),
        body=(parameter("client_id", field="tenant_id"),),
    ),
    route(
        "78",
        "POST /api/client/{client_id}/pricing-alerts",
        "NotificationService.CreatePricingAlert",
        ALERT,
        status=201,
        body=(
            "alert_type",
            parameter("threshold", "threshold_price", field="threshold_nanousd"),
            parameter("pool_id", max_length=128),
            "notification_channels",
            "enabled",
        ),
    ),
    route(
        "X20",
        "GET /api/client/{client_id}/pricing-alerts",
        "NotificationService.ListPricingAlerts",
        Array("alerts", ALERT),
    ),
    route(
        "X21",
        "DELETE /api/client/{client_id}/pricing-alerts/{alert_id}",
        "NotificationService.DeletePricingAlert",
        Shape(success=True),
    ),
)
