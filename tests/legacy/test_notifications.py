"""Legacy API of notifications and price alerts."""

from __future__ import annotations

import pytest
from spotplane_server.kernel.db.database import ALL_TENANTS
from spotplane_server.notifications.jobs import NotificationsJob

from tests.legacy.field import ADMIN, UNKNOWN_ID, Field, covers
from tests.notifications.test_jobs import POOL, PUT_POOL, tell
from tests.support.clock import FakeClock


@pytest.fixture
async def told(field: Field, clock: FakeClock) -> Field:
    """A client with two notifications of its tenant and a global one."""
    db = field.plane.db
    await tell(db, "switch.failed", field.tenant, clock.now(), message="no capacity")
    await tell(db, "token.regenerated", field.tenant, clock.now())
    await tell(db, "ml_models.activated", None, clock.now())
    await NotificationsJob(db).run_once(clock.now())
    return field


@covers("64", "good")
async def test_notifications_are_a_bare_array_newest_first(told: Field) -> None:
    reply = await told.get("/api/notifications?limit=50")

    assert [list(item) for item in reply] == [
        ["id", "message", "severity", "isRead", "time", "client_id"]
    ] * len(reply)
    assert [(n["message"], n["severity"], n["client_id"], n["isRead"]) for n in reply] == [
        ("A new decision model is live", "info", None, False),
        ("The client token was regenerated", "warning", told.tenant.id, False),
        ("The switch of agent an agent failed: no capacity", "error", told.tenant.id, False),
    ]
    assert reply[0]["time"].endswith("Z")


@covers("64", "bad")
async def test_limit_of_notifications_is_bounded(told: Field) -> None:
    reply = await told.refused(
        "VALIDATION_ERROR", "GET", "/api/notifications?limit=101", status=400
    )
    assert reply["details"][0]["field"] == "limit"


@covers("64 65 66", "foreign")
async def test_another_tenants_notifications_are_not_found(told: Field) -> None:
    theirs = await told.get("/api/notifications", by=told.foreign)
    assert [n["message"] for n in theirs] == ["A new decision model is live"]
    mine = (await told.get("/api/notifications"))[1]["id"]
    await told.refused(
        "NOT_FOUND",
        "POST",
        f"/api/notifications/{mine}/mark-read",
        by=told.foreign,
        status=404,
    )
    query = f"/api/notifications?client_id={told.tenant.id}"
    await told.refused("NOT_FOUND", "GET", query, by=told.foreign, status=404)
    await told.refused(
        "NOT_FOUND",
        "POST",
        "/api/notifications/mark-all-read",
        {"client_id": told.tenant.id},
        by=told.foreign,
        status=404,
    )


@covers("65", "good")
async def test_read_state_of_a_global_notification_is_each_tenants_own(told: Field) -> None:
    shared, own = [n["id"] for n in (await told.get("/api/notifications"))[:2]]

    for found in (shared, own, own):
        assert await told.post(f"/api/notifications/{found}/mark-read") == {"success": True}

    assert [n["isRead"] for n in await told.get("/api/notifications")] == [True, True, False]
    theirs = await told.get("/api/notifications", by=told.foreign)
    assert [n["isRead"] for n in theirs] == [False]
    query = f"/api/notifications?client_id={told.tenant.id}"
    of_admin = await told.get(query, by=ADMIN)
    assert [n["isRead"] for n in of_admin] == [False, True, False]


@covers("65", "bad")
async def test_unknown_and_malformed_ids_are_not_found(told: Field) -> None:
    for found in (UNKNOWN_ID, "nonsense"):
        path = f"/api/notifications/{found}/mark-read"
        await told.refused("NOT_FOUND", "POST", path, status=404)


@covers("66", "good")
async def test_all_that_the_caller_sees_is_marked_and_counted(told: Field) -> None:
    reply = await told.post("/api/notifications/mark-all-read", {"client_id": None})
    assert reply == {"success": True, "marked_count": 3}
    assert await told.post("/api/notifications/mark-all-read") == {
        "success": True,
        "marked_count": 0,
    }
    assert all(n["isRead"] for n in await told.get("/api/notifications"))


@pytest.fixture
async def pool(field: Field, clock: FakeClock) -> str:
    """A pool with a reported price."""
    async with field.plane.db.connection(ALL_TENANTS) as conn:
        await conn.execute(PUT_POOL, POOL, clock.now())
    return POOL


@covers("78 X20 X21", "good")
async def test_alert_is_made_listed_and_ended(field: Field, pool: str) -> None:
    path = f"/api/client/{field.tenant.id}/pricing-alerts"

    made = await field.post(path, {"threshold_price": 0.052, "pool_id": pool}, status=201)

    assert list(made) == [
        "alert_id",
        "alert_type",
        "threshold",
        "enabled",
        "pool_id",
        "notification_channels",
        "created_at",
        "last_triggered_at",
    ]
    assert made | {"alert_id": "", "created_at": ""} == {
        "alert_id": "",
        "alert_type": "threshold_above",
        "threshold": 0.052,
        "enabled": True,
        "pool_id": pool,
        "notification_channels": ["dashboard"],
        "created_at": "",
        "last_triggered_at": None,
    }
    assert await field.get(path) == [made]
    assert await field.delete(f"{path}/{made['alert_id']}") == {"success": True}
    assert await field.get(path) == []
    await field.refused("NOT_FOUND", "DELETE", f"{path}/{made['alert_id']}", status=404)


@covers("78", "bad")
@pytest.mark.parametrize(
    ("body", "code", "named"),
    [
        ({}, "VALIDATION_ERROR", "threshold"),
        ({"threshold": 0}, "VALIDATION_ERROR", "threshold"),
        ({"threshold": -1}, "VALIDATION_ERROR", "threshold"),
        ({"threshold": "much"}, "VALIDATION_ERROR", "threshold"),
        ({"threshold": 1, "alert_type": "sideways"}, "VALIDATION_ERROR", "alert_type"),
        ({"threshold": 1, "alert_type": "unspecified"}, "VALIDATION_ERROR", "alert_type"),
        (
            {"threshold": 1, "notification_channels": ["pigeon"]},
            "VALIDATION_ERROR",
            "notification_channels",
        ),
        ({"threshold": 1, "pool_id": "no.where"}, "UNKNOWN_POOL", None),
    ],
    ids=["none", "zero", "negative", "word", "type", "unspecified", "channel", "pool"],
)
async def test_alert_that_makes_no_sense_is_refused(
    field: Field, body: dict[str, object], code: str, named: str | None
) -> None:
    path = f"/api/client/{field.tenant.id}/pricing-alerts"

    reply = await field.refused(code, "POST", path, body, status=400)

    if named is not None:
        assert reply["details"][0]["field"].startswith(named)
    assert await field.get(path) == []


@covers("78 X20 X21", "foreign")
@covers("X21", "bad")
async def test_alerts_of_another_tenant_are_not_there(field: Field, pool: str) -> None:
    path = f"/api/client/{field.tenant.id}/pricing-alerts"
    made = await field.post(path, {"threshold": 1}, status=201)
    end = f"{path}/{made['alert_id']}"

    await field.refused("NOT_FOUND", "GET", path, by=field.foreign, status=404)
    await field.refused("NOT_FOUND", "POST", path, {"threshold": 1}, by=field.foreign, status=404)
    await field.refused("NOT_FOUND", "DELETE", end, by=field.foreign, status=404)
    assert await field.get(path, by=ADMIN) == [made]
    unknown = f"/api/client/{UNKNOWN_ID}/pricing-alerts"
    await field.refused("NOT_FOUND", "GET", unknown, by=ADMIN, status=404)
    await field.refused("NOT_FOUND", "DELETE", f"{path}/nonsense", status=404)
