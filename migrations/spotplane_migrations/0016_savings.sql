-- The savings ledger: what every instance cost, and what its agent would have cost on demand, in
-- five-minute buckets and integer nano-USD. It is made of instance_spans and of clean prices by one
-- function, `integrate_savings`; the rest keeps track of which buckets have to be made, or made anew.

CREATE TABLE savings_buckets (
    tenant_id        uuid NOT NULL,
    bucket_at        timestamptz NOT NULL,  -- start of the five minutes
    agent_id         uuid NOT NULL,
    instance_id      text NOT NULL,
    -- On demand, for the time as primary.
    baseline_nanousd bigint NOT NULL,
    -- Really, for the same time.
    actual_nanousd   bigint NOT NULL,
    -- Of an instance that stands by, or is on its way to.
    replica_nanousd  bigint NOT NULL,
    -- Of an instance that was left and not yet terminated.
    overlap_nanousd  bigint NOT NULL,
    PRIMARY KEY (tenant_id, agent_id, bucket_at, instance_id)
) PARTITION BY RANGE (bucket_at);
CALL isolate_tenants('savings_buckets');
GRANT SELECT, INSERT, UPDATE, DELETE ON savings_buckets TO spotplane_app;

-- Sums of buckets, changed in the transaction of their buckets and by the same amounts, so that they
-- never differ from them; kept when the buckets go.
CREATE TABLE savings_days (
    tenant_id        uuid NOT NULL,
    day_at           timestamptz NOT NULL,  -- start of the UTC day
    agent_id         uuid NOT NULL,
    instance_id      text NOT NULL,
    baseline_nanousd bigint NOT NULL,
    actual_nanousd   bigint NOT NULL,
    replica_nanousd  bigint NOT NULL,
    overlap_nanousd  bigint NOT NULL,
    PRIMARY KEY (tenant_id, day_at, agent_id, instance_id)
);
CREATE INDEX savings_days_instance ON savings_days (tenant_id, instance_id, day_at);
CALL isolate_tenants('savings_days');
GRANT SELECT, INSERT, UPDATE ON savings_days TO spotplane_app;

CREATE TABLE savings_months (
    tenant_id        uuid NOT NULL,
    month_at         timestamptz NOT NULL,  -- start of the UTC month
    agent_id         uuid NOT NULL,
    instance_id      text NOT NULL,
    baseline_nanousd bigint NOT NULL,
    actual_nanousd   bigint NOT NULL,
    replica_nanousd  bigint NOT NULL,
    overlap_nanousd  bigint NOT NULL,
    PRIMARY KEY (tenant_id, month_at, agent_id, instance_id)
);
CREATE INDEX savings_months_agent ON savings_months (tenant_id, agent_id);
CREATE INDEX savings_months_instance ON savings_months (tenant_id, instance_id);
CALL isolate_tenants('savings_months');
GRANT SELECT, INSERT, UPDATE ON savings_months TO spotplane_app;

-- How far each agent's buckets are made, and which of them are out of date.
CREATE TABLE savings_agents (
    tenant_id    uuid NOT NULL,
    agent_id     uuid NOT NULL,
    closed_until timestamptz NOT NULL,
    dirty_from   timestamptz,
    dirty_until  timestamptz,
    PRIMARY KEY (tenant_id, agent_id),
    CONSTRAINT savings_agents_dirty_check CHECK ((dirty_from IS NULL) = (dirty_until IS NULL))
);
CREATE INDEX savings_agents_dirty ON savings_agents (dirty_from) WHERE dirty_from IS NOT NULL;
CALL isolate_tenants('savings_agents');
GRANT SELECT, INSERT, UPDATE ON savings_agents TO spotplane_app;

-- A primary whose own silence cut its time short, in buckets that are made: if it is heard of again,
-- they are made anew.
CREATE TABLE savings_pauses (
    tenant_id   uuid NOT NULL,
    instance_id text NOT NULL,
    agent_id    uuid NOT NULL,
    cut_at      timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, instance_id, agent_id)
);
CALL isolate_tenants('savings_pauses');
GRANT SELECT, INSERT, UPDATE, DELETE ON savings_pauses TO spotplane_app;

-- What has changed since the ledger was last looked at: appended by the triggers below in the
-- transaction of the change, whoever makes it, and taken by the savings job.
CREATE TABLE savings_span_changes (
    tenant_id uuid NOT NULL,
    seq       bigint GENERATED ALWAYS AS IDENTITY,
    agent_id  uuid NOT NULL,
    from_at   timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, seq)
);
CREATE INDEX savings_span_changes_order ON savings_span_changes (seq);
CALL isolate_tenants('savings_span_changes');
GRANT SELECT, DELETE ON savings_span_changes TO spotplane_app;

CREATE TABLE savings_price_changes (
    seq           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pool_id       text,
    region        text,
    instance_type text,
    from_at       timestamptz NOT NULL,
    until_at      timestamptz NOT NULL,
    -- Of a pool, or on demand of a type in a region.
    CONSTRAINT savings_price_changes_kind_check CHECK ((pool_id IS NULL) <> (region IS NULL))
);
GRANT SELECT, DELETE ON savings_price_changes TO spotplane_app;

CREATE INDEX instance_spans_until ON instance_spans
    (tenant_id, agent_id, (coalesce(ended_at, 'infinity'::timestamptz)));
CREATE INDEX instance_spans_pool ON instance_spans (pool_id, (coalesce(ended_at, 'infinity'::timestamptz)));
CREATE INDEX instance_spans_type ON instance_spans
    (region, instance_type, (coalesce(ended_at, 'infinity'::timestamptz)));

CREATE FUNCTION savings_bucket(at timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT date_bin('5 minutes', at, '2000-01-01 00:00:00+00')
$$;

-- Nano-USD of nano-USD an hour times milliseconds: the one place where money is rounded, half up.
CREATE FUNCTION savings_amount(price_times_ms numeric) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT div(coalesce(price_times_ms, 0) + 1800000, 3600000)::bigint
$$;

CREATE FUNCTION note_span_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO savings_agents (tenant_id, agent_id, closed_until)
        VALUES (NEW.tenant_id, NEW.agent_id, savings_bucket(NEW.started_at))
        ON CONFLICT DO NOTHING;
    END IF;
    INSERT INTO savings_span_changes (tenant_id, agent_id, from_at)
    SELECT c.tenant_id, c.agent_id, c.from_at
      FROM (VALUES (NEW.tenant_id, NEW.agent_id,
                    CASE WHEN TG_OP = 'INSERT' THEN NEW.started_at
                         -- An end that becomes known changes nothing before it.
                         WHEN (OLD.agent_id, OLD.started_at, OLD.status, OLD.mode, OLD.pool_id)
                              IS NOT DISTINCT FROM
                              (NEW.agent_id, NEW.started_at, NEW.status, NEW.mode, NEW.pool_id)
                         THEN least(OLD.ended_at, NEW.ended_at)
                         ELSE least(OLD.started_at, NEW.started_at) END))
           AS c (tenant_id, agent_id, from_at)
     WHERE c.from_at IS NOT NULL;
    IF TG_OP = 'UPDATE' AND OLD.agent_id <> NEW.agent_id THEN
        INSERT INTO savings_span_changes (tenant_id, agent_id, from_at)
        VALUES (OLD.tenant_id, OLD.agent_id, OLD.started_at);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER instance_spans_noted AFTER INSERT OR UPDATE ON instance_spans
    FOR EACH ROW EXECUTE FUNCTION note_span_change();

-- A clean price stands until the next one.
CREATE FUNCTION note_clean_prices() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO savings_price_changes (pool_id, from_at, until_at)
    SELECT t.pool_id, t.from_at,
           coalesce((SELECT min(c.bucket_at) FROM clean_prices c
                      WHERE c.pool_id = t.pool_id AND c.bucket_at > t.last_at), 'infinity')
      FROM (SELECT pool_id, min(bucket_at) AS from_at, max(bucket_at) AS last_at
              FROM told
             GROUP BY pool_id) t;
    RETURN NULL;
END
$$;
CREATE TRIGGER clean_prices_added AFTER INSERT ON clean_prices
    REFERENCING NEW TABLE AS told FOR EACH STATEMENT EXECUTE FUNCTION note_clean_prices();
CREATE TRIGGER clean_prices_corrected AFTER UPDATE ON clean_prices
    REFERENCING NEW TABLE AS told FOR EACH STATEMENT EXECUTE FUNCTION note_clean_prices();
CREATE TRIGGER clean_prices_withdrawn AFTER DELETE ON clean_prices
    REFERENCING OLD TABLE AS told FOR EACH STATEMENT EXECUTE FUNCTION note_clean_prices();

CREATE FUNCTION note_on_demand_prices() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO savings_price_changes (region, instance_type, from_at, until_at)
    SELECT t.region, t.instance_type, t.from_at,
           coalesce((SELECT min(o.observed_at) FROM on_demand_price_history o
                      WHERE o.region = t.region AND o.instance_type = t.instance_type
                        AND o.observed_at > t.last_at), 'infinity')
      FROM (SELECT region, instance_type, min(observed_at) AS from_at, max(observed_at) AS last_at
              FROM told
             GROUP BY region, instance_type) t;
    RETURN NULL;
END
$$;
CREATE TRIGGER on_demand_prices_added AFTER INSERT ON on_demand_price_history
    REFERENCING NEW TABLE AS told FOR EACH STATEMENT EXECUTE FUNCTION note_on_demand_prices();
CREATE TRIGGER on_demand_prices_corrected AFTER UPDATE ON on_demand_price_history
    REFERENCING NEW TABLE AS told FOR EACH STATEMENT EXECUTE FUNCTION note_on_demand_prices();
CREATE TRIGGER on_demand_prices_withdrawn AFTER DELETE ON on_demand_price_history
    REFERENCING OLD TABLE AS told FOR EACH STATEMENT EXECUTE FUNCTION note_on_demand_prices();

-- What instances of some agents cost within each agent's window, bucket by bucket: the definition of
-- the ledger, for the job that writes it and for whoever reads what is still running.
--
-- A primary counts until an hour after it was last heard of, or after it became one; whatever else an
-- agent runs counts within the window. Spot costs the clean price of its pool, else the newest one of
-- the 24 hours before, else the last one known, else 30 % of on demand. On demand costs the newest price
-- told before the bucket's end, else what it was when the instance was first seen, else 0.0416 $/h.
CREATE FUNCTION integrate_savings(tenants uuid[], agents uuid[], froms timestamptz[], untils timestamptz[])
RETURNS TABLE (tenant_id uuid, agent_id uuid, instance_id text, bucket_at timestamptz,
               baseline_nanousd bigint, actual_nanousd bigint, replica_nanousd bigint, overlap_nanousd bigint)
LANGUAGE sql STABLE ROWS 5000 AS $$
    WITH pieces AS MATERIALIZED (
        SELECT s.tenant_id, s.agent_id, s.instance_id, s.status, s.mode, s.pool_id, s.region, s.instance_type,
               date_trunc('milliseconds', greatest(s.started_at, w.from_at)) AS from_at,
               date_trunc('milliseconds', least(s.ended_at, w.until_at,
                   CASE WHEN s.status = 'running_primary'
                        THEN greatest(h.last_heartbeat_at, s.started_at) + interval '1 hour' END)) AS until_at
          FROM unnest(tenants, agents, froms, untils) AS w (tenant_id, agent_id, from_at, until_at)
          JOIN instance_spans s ON s.tenant_id = w.tenant_id AND s.agent_id = w.agent_id
                               AND coalesce(s.ended_at, 'infinity'::timestamptz) > w.from_at
                               AND s.started_at < w.until_at
          LEFT JOIN agent_sessions h ON h.tenant_id = s.tenant_id AND h.instance_id = s.instance_id),
    cells AS MATERIALIZED (
        SELECT p.tenant_id, p.agent_id, p.instance_id, p.status, p.mode, p.pool_id, p.region, p.instance_type,
               b.bucket_at,
               ((extract(epoch FROM least(p.until_at, b.bucket_at + interval '5 minutes'))
                 - extract(epoch FROM greatest(p.from_at, b.bucket_at))) * 1000)::bigint AS ms
          FROM pieces p
         CROSS JOIN generate_series(savings_bucket(p.from_at),
                                    savings_bucket(p.until_at - interval '1 millisecond'),
                                    interval '5 minutes') AS b (bucket_at)
         WHERE p.until_at > p.from_at),
    spot AS MATERIALIZED (
        SELECT d.pool_id, d.bucket_at,
               coalesce((SELECT c.price_nanousd
                           FROM clean_prices c
                          WHERE c.pool_id = d.pool_id AND c.bucket_at <= d.bucket_at
                            AND c.bucket_at >= d.bucket_at - interval '24 hours'
                          ORDER BY c.bucket_at DESC
                          LIMIT 1),
                        (SELECT c.price_nanousd
                           FROM clean_prices c
                          WHERE c.pool_id = d.pool_id AND c.bucket_at < d.bucket_at - interval '24 hours'
                          ORDER BY c.bucket_at DESC
                          LIMIT 1)) AS price
          FROM (SELECT DISTINCT c.pool_id, c.bucket_at FROM cells c
                 WHERE c.mode = 'spot' AND c.pool_id IS NOT NULL) d),
    on_demand AS MATERIALIZED (
        SELECT d.region, d.instance_type, d.bucket_at,
               (SELECT o.price_nanousd
                  FROM on_demand_price_history o
                 WHERE o.region = d.region AND o.instance_type = d.instance_type
                   AND o.observed_at < d.bucket_at + interval '5 minutes'
                 ORDER BY o.observed_at DESC
                 LIMIT 1) AS price
          FROM (SELECT DISTINCT c.region, c.instance_type, c.bucket_at FROM cells c) d),
    priced AS (
        SELECT c.tenant_id, c.agent_id, c.instance_id, c.bucket_at, c.status, c.ms, o.on_demand,
               CASE WHEN c.mode = 'spot'
                    THEN coalesce(s.price, o.on_demand * 3 / 10)
                    ELSE o.on_demand END AS own
          FROM cells c
          JOIN instances i ON i.tenant_id = c.tenant_id AND i.id = c.instance_id
          LEFT JOIN spot s ON s.pool_id = c.pool_id AND s.bucket_at = c.bucket_at
          LEFT JOIN on_demand d ON d.region = c.region AND d.instance_type = c.instance_type
                               AND d.bucket_at = c.bucket_at
         CROSS JOIN LATERAL (SELECT coalesce(d.price, i.baseline_price_nanousd, 41600000) AS on_demand) o)
    SELECT p.tenant_id, p.agent_id, p.instance_id, p.bucket_at,
           savings_amount(sum(p.on_demand * p.ms) FILTER (WHERE p.status = 'running_primary')),
           savings_amount(sum(p.own * p.ms) FILTER (WHERE p.status = 'running_primary')),
           savings_amount(sum(p.own * p.ms)
                          FILTER (WHERE p.status IN ('launching', 'running_replica', 'promoting'))),
           savings_amount(sum(p.own * p.ms) FILTER (WHERE p.status IN ('zombie', 'terminating')))
      FROM priced p
     GROUP BY p.tenant_id, p.agent_id, p.instance_id, p.bucket_at
$$;

-- How far each agent's time may be counted: until now, or until an hour after any of its instances was
-- last heard of, or became primary.
CREATE FUNCTION savings_horizons(of_tenant uuid, now timestamptz)
RETURNS TABLE (tenant_id uuid, agent_id uuid, closed_until timestamptz, horizon timestamptz)
LANGUAGE sql STABLE ROWS 1000 AS $$
    SELECT a.tenant_id, a.agent_id, a.closed_until,
           least(savings_horizons.now,
                 greatest((SELECT max(h.last_heartbeat_at) FROM agent_sessions h
                            WHERE h.tenant_id = a.tenant_id AND h.agent_id = a.agent_id),
                          -- An agent that another one took over left it its sessions.
                          (SELECT max(h.last_heartbeat_at)
                             FROM instance_spans s
                             JOIN agent_sessions h ON h.tenant_id = s.tenant_id
                                                  AND h.instance_id = s.instance_id
                            WHERE s.tenant_id = a.tenant_id AND s.agent_id = a.agent_id
                              AND coalesce(s.ended_at, 'infinity'::timestamptz) > a.closed_until),
                          (SELECT s.started_at FROM instance_spans s
                            WHERE s.tenant_id = a.tenant_id AND s.agent_id = a.agent_id
                              AND s.status = 'running_primary'
                            ORDER BY s.started_at DESC LIMIT 1),
                          '-infinity') + interval '1 hour')
      FROM savings_agents a
     WHERE of_tenant IS NULL OR a.tenant_id = of_tenant
$$;

-- What is not in the ledger yet: from where it ends for each agent until its horizon.
CREATE FUNCTION running_savings(of_tenant uuid, now timestamptz)
RETURNS TABLE (tenant_id uuid, agent_id uuid, instance_id text, bucket_at timestamptz,
               baseline_nanousd bigint, actual_nanousd bigint, replica_nanousd bigint, overlap_nanousd bigint)
LANGUAGE sql STABLE ROWS 1000 AS $$
    SELECT r.tenant_id, r.agent_id, r.instance_id, r.bucket_at,
           r.baseline_nanousd, r.actual_nanousd, r.replica_nanousd, r.overlap_nanousd
      FROM (SELECT array_agg(h.tenant_id) AS tenants, array_agg(h.agent_id) AS agents,
                   array_agg(h.closed_until) AS froms, array_agg(h.horizon) AS untils
              FROM savings_horizons(of_tenant, running_savings.now) h
             WHERE h.horizon > h.closed_until) w
     CROSS JOIN LATERAL integrate_savings(w.tenants, w.agents, w.froms, w.untils) r
$$;

-- On which days a tenant was heard of; sessions remember only the last time.
CREATE TABLE tenant_activity_days (
    tenant_id uuid NOT NULL REFERENCES tenants (id),
    day_at    timestamptz NOT NULL,  -- start of the UTC day
    PRIMARY KEY (tenant_id, day_at)
);
CREATE INDEX tenant_activity_days_day ON tenant_activity_days (day_at);
CALL isolate_tenants('tenant_activity_days');
GRANT SELECT, INSERT ON tenant_activity_days TO spotplane_app;

-- What administrators see as activity leaves out the changes of state that live views are made of.
CREATE INDEX outbox_events_activity ON outbox_events (occurred_at DESC, seq DESC)
    WHERE event_type NOT LIKE '%.status\_changed';

-- Administrators name an instance without its tenant, and look at the switches of all of them.
CREATE INDEX instances_id ON instances (id);
CREATE INDEX switches_time ON switches (created_at);

-- What runs already is accounted from the start of what is known of it.
INSERT INTO savings_agents (tenant_id, agent_id, closed_until)
SELECT tenant_id, agent_id, savings_bucket(min(started_at)) FROM instance_spans GROUP BY tenant_id, agent_id;

-- Sums by day and month stay for the life of a tenant.
INSERT INTO partitioned_tables (name, kept_for) VALUES ('savings_buckets', '400 days');
SELECT ensure_partition('savings_buckets', starts_at, starts_at + interval '1 month')
  FROM generate_series(date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - interval '2 months',
                       date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + interval '3 months',
                       interval '1 month') AS starts_at;
