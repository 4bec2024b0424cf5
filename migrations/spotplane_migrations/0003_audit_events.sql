-- Who changed what, and what happened: both by month, both in the transaction of their cause.

CREATE TABLE audit_logs (
    occurred_at    timestamptz NOT NULL,
    id             uuid NOT NULL,
    actor_type     text NOT NULL
        CONSTRAINT audit_logs_actor_type_check CHECK (actor_type IN ('admin', 'user', 'api_key', 'agent', 'system')),
    actor_id       text NOT NULL,
    actor_name     text NOT NULL,
    action         text NOT NULL,
    resource_type  text NOT NULL,
    resource_id    text NOT NULL,
    tenant_id      uuid,
    before         jsonb,
    after          jsonb,
    result         text NOT NULL DEFAULT 'success'
        CONSTRAINT audit_logs_result_check CHECK (result IN ('success', 'failure')),
    correlation_id text NOT NULL,
    ip             text,
    user_agent     text,
    PRIMARY KEY (occurred_at, id)
) PARTITION BY RANGE (occurred_at);
CREATE INDEX audit_logs_recent ON audit_logs (occurred_at DESC, id);
CREATE INDEX audit_logs_tenant ON audit_logs (tenant_id, occurred_at DESC);
CREATE INDEX audit_logs_resource ON audit_logs (resource_type, resource_id);
CALL isolate_tenants('audit_logs');
GRANT SELECT, INSERT ON audit_logs TO spotplane_app;

-- Append-only for everybody, the owner included; retention drops whole months.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER audit_logs_append_only BEFORE UPDATE OR DELETE ON audit_logs
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- `txid` orders rows by their transactions: a reader takes only what is older than every transaction
-- still running, so it never skips a row whose transaction commits late.
CREATE SEQUENCE outbox_events_seq;  -- partitioned tables have identity columns from PostgreSQL 17 only
GRANT USAGE ON SEQUENCE outbox_events_seq TO spotplane_app;
CREATE TABLE outbox_events (
    occurred_at  timestamptz NOT NULL,
    txid         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    seq          bigint NOT NULL DEFAULT nextval('outbox_events_seq'),
    id           uuid NOT NULL,
    event_type   text NOT NULL,
    tenant_id    uuid,
    aggregate_id text NOT NULL,
    data         jsonb NOT NULL,
    PRIMARY KEY (occurred_at, id)
) PARTITION BY RANGE (occurred_at);
CREATE INDEX outbox_events_order ON outbox_events (txid, seq);
CALL isolate_tenants('outbox_events');
GRANT SELECT, INSERT ON outbox_events TO spotplane_app;

SELECT ensure_partition(parent, starts_at, starts_at + interval '1 month')
  FROM unnest(ARRAY['audit_logs', 'outbox_events']) AS parent,
       generate_series(date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - interval '2 months',
                       date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + interval '3 months',
                       interval '1 month') AS starts_at;
