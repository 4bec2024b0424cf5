"""The legacy API under `/api/**`: routes declared one by one.

A module here that has `ROUTES` is served and described in `/openapi.json`. A route is one
declaration; it holds no rule, no state and no SQL, and makes one call. For example::

    from spotplane_bridge.legacy.requests import parameter
    from spotplane_bridge.legacy.routes import call, route
    from spotplane_bridge.legacy.response_shapes import (
        Array, Either, Shape, date, default, each, made, mapped, nested, optional, usd,
    )

    POOL = Shape(id="id", name="name", az="az")

    ALERT = Shape(
        alert_id="id",                              # a field, converted by its type
        threshold="threshold_nanousd",              # `nanousd` in its name: dollars, 6 decimals
        hourly=usd("hourly_nanousd", absent=0),     # never null
        pool_id=optional("pool_id"),                # null when absent or empty
        poolName=default("pool_name", "n/a"),       # this when absent or empty
        pool=nested("pool", POOL),                  # an object of another message; null when absent
        items=each("items", POOL),                  # a list of objects
        day=date("created_at"),                     # YYYY-MM-DD
        created_at="created_at",                    # a Timestamp: RFC 3339 with Z
        state=mapped("status", {"ACTIVE": "on"}),   # other words
        position=Shape(region="region", az="az"),   # an object of fields of the same message
        label=made(lambda m: f"{m.a}.{m.b}", type="string"),  # renaming only, never a rule
        success=True,                               # a constant, only where the contract has one
    )

    ROUTES = (
        route("X20", "GET /api/client/{client_id}/pricing-alerts",
              "NotificationService.ListPricingAlerts", Array("alerts", ALERT),
              query=("limit", "cursor", "status")),
        route("78", "POST /api/client/{client_id}/pricing-alerts",
              "NotificationService.CreatePricingAlert", ALERT, status=201,
              body=("alert_type", parameter("threshold", "threshold_price",
                                            field="threshold_nanousd"),
                    parameter("pool_id", max_length=128), "notification_channels", "enabled"),
              errors={"REPLICA_LIMIT": {"current_count": int, "max_allowed": 1}}),
    )

Requests (`requests.py`). A member fills the field of its name or of ``field=``; the first of its
names that is given counts. Types are those of the fields: numbers and flags may be texts, an
integer with `nanousd` in its name is given in dollars, a `Timestamp` without an offset is UTC,
lists in a query are separated by commas, `of=` declares the members of nested objects, ``convert=``
changes a value first. null is absent, unknown members are ignored; in the query, `all` and an empty
text are ignored too unless ``exact=True``. `{client_id}` of a path fills `tenant_id`;
``path={"replica_id": "id"}`` overrides it. A malformed id in the path becomes the same 404 as an
unknown one, if the server reports `INVALID_ID` or `MISSING_FIELD` with the field's name. ``fill=``
corrects a message by a function.

Several shapes, several RPCs. ``instead=(call("B.Other", SHAPE, when=lambda r: "x" in r.body), …)``
is tried first. ``Either(lambda m: m.success, SHAPE, OTHER)`` chooses the shape by the response,
``status=lambda m: 201 if m.success else 200`` its status; a status that the RPC sets itself counts
too.

Lists. `X-Total-Count` and `X-Next-Cursor` come from a `Pagination pagination` in the response, or
from headers that the RPC's handler sets.

Errors. Reasons of `DomainError` become legacy codes by the tables in `errors.py`; ``errors=`` adds
members from the error's metadata; `suggestion` becomes `hint`.

Exports (`exports.py`): ``Csv(lambda r: f"client_{r.path['client_id']}_savings.csv", (Column("Year",
"year", "year"), Column("Savings ($)", "savings", "savings_nanousd", decimals=2)))``. The RPC
returns repeated `rows`, or streams such messages. Uploads (`uploads.py`): the RPC is a client
stream. Events (`sse.py`): the RPC is a server stream that sends its first message at once.

Credentials, envelopes, correlation ids, idempotency keys, CORS and limits are the same for all
routes and need no declaration (`credentials.py`, `handlers.py`). Tests: `tests/legacy/conftest.py`.
"""
