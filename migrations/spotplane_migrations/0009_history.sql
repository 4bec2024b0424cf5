-- What was: the switches of agents, and the spans of their instances. The database keeps the spans
-- itself, so that no writer can forget one: costs and savings are computed from nothing else.

-- One row whenever an agent's primary changes, or fails to. Written by the move itself; a report of
-- the agent adds its instants and prices later.
CREATE TABLE switches (
    tenant_id               uuid NOT NULL,
    id                      uuid NOT NULL,
    agent_id                uuid NOT NULL,
    command_id              uuid,
    old_instance_id         text,
    new_instance_id         text,
    old_mode                text,
    new_mode                text,
    old_pool_id             text,
    new_pool_id             text,
    old_az                  text,
    new_az                  text,
    trigger                 text NOT NULL
        CONSTRAINT switches_trigger_check CHECK (trigger IN ('MANUAL', 'AUTOMATIC', 'EMERGENCY')),
    -- What moved it: switch, promotion, registration, or a kind of failover.
    cause                   text NOT NULL,
    success                 boolean NOT NULL DEFAULT true,
    error_message           text,
    old_price_nanousd       bigint,
    new_price_nanousd       bigint,
    -- Old minus new, an hour; negative when the new instance costs more.
    savings_impact_nanousd  bigint NOT NULL DEFAULT 0,
    initiated_at            timestamptz NOT NULL,
    launched_at             timestamptz,
    ready_at                timestamptz,
    traffic_switched_at     timestamptz,
    old_terminated_at       timestamptz,
    downtime_seconds        int NOT NULL DEFAULT 0 CHECK (downtime_seconds >= 0),
    duration_seconds        int CHECK (duration_seconds >= 0),
    -- Whether the agent's own report has filled in instants and prices.
    reported                boolean NOT NULL DEFAULT false,
    -- The old process says goodbye without naming its instance; one such word belongs to this switch.
    goodbye_owed_until      timestamptz,
    goodbye_at              timestamptz,
    created_at              timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, agent_id) REFERENCES agents (tenant_id, id)
);
CREATE UNIQUE INDEX switches_command_key ON switches (tenant_id, command_id) WHERE command_id IS NOT NULL;
-- A repeated report finds the row of its pair; an in-place switch (old = new) may recur.
CREATE UNIQUE INDEX switches_pair_key ON switches (tenant_id, agent_id, old_instance_id, new_instance_id)
    WHERE success AND old_instance_id <> new_instance_id;
CREATE INDEX switches_recent ON switches (tenant_id, created_at DESC, id);
CREATE INDEX switches_agent ON switches (tenant_id, agent_id, created_at DESC, id);
CREATE INDEX switches_owed ON switches (tenant_id, agent_id, goodbye_owed_until)
    WHERE goodbye_owed_until IS NOT NULL AND goodbye_at IS NULL;
CALL isolate_tenants('switches');
GRANT SELECT, INSERT, UPDATE ON switches TO spotplane_app;

-- What an instance was from when to when. Open while `ended_at` is null; a terminated instance has no
-- open span. The plain role reads only: the trigger below writes.
CREATE TABLE instance_spans (
    tenant_id     uuid NOT NULL,
    instance_id   text NOT NULL,
    seq           bigint GENERATED ALWAYS AS IDENTITY,
    agent_id      uuid NOT NULL,
    status        text NOT NULL,
    mode          text NOT NULL,
    pool_id       text,
    instance_type text NOT NULL,
    region        text NOT NULL,
    az            text NOT NULL,
    started_at    timestamptz NOT NULL,
    ended_at      timestamptz CHECK (ended_at >= started_at),
    PRIMARY KEY (tenant_id, instance_id, seq)
);
CREATE UNIQUE INDEX instance_spans_one_open ON instance_spans (tenant_id, instance_id) WHERE ended_at IS NULL;
CREATE INDEX instance_spans_agent ON instance_spans (tenant_id, agent_id, started_at);
CREATE INDEX instance_spans_window ON instance_spans (ended_at, started_at);
CALL isolate_tenants('instance_spans');
GRANT SELECT ON instance_spans TO spotplane_app;

-- State changes are events whoever makes them, in the order of commits like all events.
CREATE FUNCTION tell_status_change(what text, tenant uuid, aggregate text, data jsonb, at timestamptz)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    INSERT INTO outbox_events (occurred_at, id, event_type, tenant_id, aggregate_id, data)
    VALUES (at, gen_random_uuid(), what || '.status_changed', tenant, aggregate, data)
$$;
REVOKE ALL ON FUNCTION tell_status_change FROM public;

CREATE FUNCTION keep_instance_history() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        UPDATE instance_spans
           SET ended_at = greatest(started_at, NEW.updated_at)
         WHERE tenant_id = NEW.tenant_id AND instance_id = NEW.id AND ended_at IS NULL;
    END IF;
    IF NEW.status <> 'terminated' THEN
        INSERT INTO instance_spans (tenant_id, instance_id, agent_id, status, mode, pool_id,
                                    instance_type, region, az, started_at)
        VALUES (NEW.tenant_id, NEW.id, NEW.agent_id, NEW.status, NEW.mode, NEW.pool_id,
                NEW.instance_type, NEW.region, NEW.az, NEW.updated_at);
    END IF;
    IF TG_OP = 'INSERT' OR OLD.status <> NEW.status THEN
        PERFORM tell_status_change('instance', NEW.tenant_id, NEW.agent_id::text, jsonb_build_object(
            'agent_id', NEW.agent_id, 'instance_id', NEW.id,
            'old_status', CASE WHEN TG_OP = 'UPDATE' THEN OLD.status END, 'new_status', NEW.status),
            NEW.updated_at);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER instances_appeared AFTER INSERT ON instances
    FOR EACH ROW EXECUTE FUNCTION keep_instance_history();
CREATE TRIGGER instances_changed AFTER UPDATE ON instances
    FOR EACH ROW WHEN ((OLD.status, OLD.mode, OLD.pool_id, OLD.agent_id)
                       IS DISTINCT FROM (NEW.status, NEW.mode, NEW.pool_id, NEW.agent_id))
    EXECUTE FUNCTION keep_instance_history();

CREATE FUNCTION tell_agent_status() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM tell_status_change('agent', NEW.tenant_id, NEW.id::text, jsonb_build_object(
        'agent_id', NEW.id, 'old_status', OLD.status, 'new_status', NEW.status), NEW.updated_at);
    RETURN NULL;
END
$$;
CREATE TRIGGER agents_status_changed AFTER UPDATE ON agents
    FOR EACH ROW WHEN (OLD.status <> NEW.status) EXECUTE FUNCTION tell_agent_status();

CREATE FUNCTION tell_replica_status() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM tell_status_change('replica', NEW.tenant_id, NEW.agent_id::text, jsonb_build_object(
        'agent_id', NEW.agent_id, 'replica_id', NEW.id, 'instance_id', NEW.instance_id,
        'old_status', OLD.status, 'new_status', NEW.status), NEW.updated_at);
    RETURN NULL;
END
$$;
CREATE TRIGGER replicas_status_changed AFTER UPDATE ON replicas
    FOR EACH ROW WHEN (OLD.status <> NEW.status) EXECUTE FUNCTION tell_replica_status();

-- What ran before this migration has run as it is since its last change.
INSERT INTO instance_spans (tenant_id, instance_id, agent_id, status, mode, pool_id, instance_type,
                            region, az, started_at)
SELECT tenant_id, id, agent_id, status, mode, pool_id, instance_type, region, az,
       coalesce(active_at, launched_at)
  FROM instances
 WHERE status <> 'terminated';

-- Partitioned tables are known by name here; a migration that makes one adds it.
CREATE TABLE partitioned_tables (
    name text PRIMARY KEY
);
INSERT INTO partitioned_tables VALUES
    ('usage_records'), ('usage_rollup_hourly'), ('audit_logs'), ('outbox_events');
GRANT SELECT ON partitioned_tables TO spotplane_app;

CREATE OR REPLACE FUNCTION ensure_partition(parent text, starts_at timestamptz, ends_at timestamptz)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    child text := parent || '_' || to_char(starts_at AT TIME ZONE 'UTC', 'YYYYMM');
BEGIN
    IF NOT EXISTS (SELECT FROM partitioned_tables t WHERE t.name = parent) THEN
        RAISE EXCEPTION 'not a partitioned table of ours: %', parent;
    END IF;
    IF to_regclass(child) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE IF NOT EXISTS %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                   child, parent, starts_at, ends_at);
    RETURN true;
END
$$;
