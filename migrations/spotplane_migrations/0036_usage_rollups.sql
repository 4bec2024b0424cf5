-- One table of usage rollups.

-- Parts of a month with retention periods of their own. Rows whose `part_column` has one of `part_values` are in
-- the part `<table>_<month>_<part>`; a part without values takes all others.
CREATE TABLE partition_parts (
    parent      text NOT NULL REFERENCES partitioned_tables (name),
    part        text NOT NULL,
    part_values text[],
    kept_for    interval NOT NULL,
    CONSTRAINT partition_parts_pkey PRIMARY KEY (parent, part)
);
GRANT SELECT ON partition_parts TO spotplane_app;
ALTER TABLE partitioned_tables ADD COLUMN part_column name;
UPDATE partitioned_tables SET part_column = apart_column WHERE apart_column IS NOT NULL;
INSERT INTO partition_parts (parent, part, part_values, kept_for)
SELECT name, 'apart', apart_values, kept_apart_for FROM partitioned_tables WHERE apart_column IS NOT NULL
UNION ALL
SELECT name, 'rest', NULL, kept_for FROM partitioned_tables WHERE apart_column IS NOT NULL;
ALTER TABLE partitioned_tables DROP COLUMN apart_column, DROP COLUMN apart_values, DROP COLUMN kept_apart_for;

-- Creates the partition of a month, with its parts if the table has any. Returns whether it was missing.
CREATE OR REPLACE FUNCTION ensure_partition(parent text, starts_at timestamptz, ends_at timestamptz)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    child text := ensure_partition.parent || '_' || to_char(starts_at AT TIME ZONE 'UTC', 'YYYYMM');
    split_by name;
    piece partition_parts;
BEGIN
    SELECT t.part_column INTO split_by FROM partitioned_tables t WHERE t.name = ensure_partition.parent;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'not a partitioned table of ours: %', ensure_partition.parent;
    END IF;
    IF to_regclass(child) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE IF NOT EXISTS %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                   child, ensure_partition.parent, starts_at, ends_at)
            || CASE WHEN split_by IS NULL THEN '' ELSE format(' PARTITION BY LIST (%I)', split_by) END;
    FOR piece IN SELECT * FROM partition_parts p WHERE p.parent = ensure_partition.parent ORDER BY p.part LOOP
        EXECUTE format('CREATE TABLE IF NOT EXISTS %I PARTITION OF %I ', child || '_' || piece.part, child)
                || coalesce('FOR VALUES IN (' || (SELECT string_agg(quote_literal(v), ', ')
                                                    FROM unnest(piece.part_values) AS v) || ')', 'DEFAULT');
    END LOOP;
    RETURN true;
END
$$;

-- Drops the partition of a month, or those of its parts that have expired. Returns whether there was one to drop.
-- Waits at most two seconds for readers; the next day is the retry.
CREATE OR REPLACE FUNCTION drop_partition(parent text, starts_at timestamptz)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    child text := drop_partition.parent || '_' || to_char(starts_at AT TIME ZONE 'UTC', 'YYYYMM');
    ends_at timestamptz := (date_trunc('month', starts_at AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC';
    kept interval := (SELECT t.kept_for FROM partitioned_tables t WHERE t.name = drop_partition.parent);
    expired text[];
    victim text;
    dropped boolean := false;
BEGIN
    IF kept IS NULL THEN
        RAISE EXCEPTION 'not a table whose months are dropped: %', drop_partition.parent;
    END IF;
    -- The current month and later ones are in use, whatever the retention period.
    IF ends_at > now() - greatest(kept, interval '0') THEN
        RAISE EXCEPTION 'a month that must be kept: %', child;
    END IF;
    IF EXISTS (SELECT FROM partition_parts p
                WHERE p.parent = drop_partition.parent AND ends_at > now() - p.kept_for) THEN
        expired := ARRAY(SELECT child || '_' || p.part
                           FROM partition_parts p
                          WHERE p.parent = drop_partition.parent AND ends_at <= now() - p.kept_for);
    ELSE
        expired := ARRAY[child];
    END IF;
    FOREACH victim IN ARRAY expired LOOP
        IF to_regclass(victim) IS NOT NULL THEN
            EXECUTE format('DROP TABLE %I', victim);
            dropped := true;
        END IF;
    END LOOP;
    RETURN dropped;
END
$$;

-- Usage summed by minute, hour or day and by some of its dimensions. The unit and the dimensions are the row's
-- `rollup`; columns of other dimensions are null, and so is a dimension that the records lack. `latencies` is a
-- sketch as one number: bucket b counts in the twelve decimal digits from digit 12 b on, so `sum` merges sketches.
CREATE TABLE usage_rollups (
    tenant_id         uuid NOT NULL,
    rollup            text NOT NULL,
    starts_at         timestamptz NOT NULL,
    environment_id    uuid,
    model_id          uuid,
    api_key_id        uuid,
    region_id         uuid,
    requests          bigint NOT NULL,
    successes         bigint NOT NULL,
    failures          bigint NOT NULL,
    prompt_tokens     bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    total_tokens      bigint NOT NULL,
    cached_tokens     bigint NOT NULL,
    cost_nanos        bigint NOT NULL,
    latency_count     bigint NOT NULL,
    latency_sum       bigint NOT NULL,
    latency_min       int,
    latency_max       int,
    latencies         numeric NOT NULL,
    first_at          timestamptz NOT NULL,
    last_at           timestamptz NOT NULL,
    CONSTRAINT usage_rollups_key UNIQUE NULLS NOT DISTINCT
        (tenant_id, rollup, starts_at, environment_id, model_id, api_key_id, region_id)
) PARTITION BY RANGE (starts_at);
CALL isolate_tenants('usage_rollups');
GRANT SELECT, INSERT, UPDATE, DELETE ON usage_rollups TO spotplane_app;

-- The definitions, equal to `ROLLUPS` of usage/rollup_builder.py (a test compares them).
CREATE VIEW usage_rollup_definitions AS
SELECT d.rollup, d.unit, d.by_environment, d.by_model, d.by_api_key, d.by_region
  FROM (VALUES ('minute_model',       'minute', false, true,  false, false),
               ('hour',               'hour',   false, false, false, false),
               ('hour_model',         'hour',   false, true,  false, false),
               ('hour_api_key',       'hour',   false, false, true,  false),
               ('hour_region',        'hour',   false, false, false, true),
               ('hour_all',           'hour',   true,  true,  true,  true),
               ('day',                'day',    false, false, false, false),
               ('day_model',          'day',    false, true,  false, false),
               ('day_api_key',        'day',    false, false, true,  false),
               ('day_region',         'day',    false, false, false, true),
               ('day_model_api_key',  'day',    false, true,  true,  false),
               ('day_model_region',   'day',    false, true,  false, true),
               ('day_api_key_region', 'day',    false, false, true,  true))
       AS d (rollup, unit, by_environment, by_model, by_api_key, by_region);
GRANT SELECT ON usage_rollup_definitions TO spotplane_app;

INSERT INTO partitioned_tables (name, kept_for, part_column) VALUES ('usage_rollups', '40 days', 'rollup');
INSERT INTO partition_parts (parent, part, part_values, kept_for)
SELECT 'usage_rollups', d.unit, array_agg(d.rollup ORDER BY d.rollup),
       CASE d.unit WHEN 'minute' THEN interval '40 days' WHEN 'hour' THEN interval '800 days' ELSE interval '3650 days' END
  FROM usage_rollup_definitions d
 GROUP BY d.unit;
SELECT ensure_partition('usage_rollups', m.starts_at, m.starts_at + interval '1 month')
  FROM pg_inherits i
  JOIN pg_class c ON c.oid = i.inhrelid
 CROSS JOIN LATERAL (SELECT to_timestamp(substring(c.relname FROM '_([0-9]{6})$'), 'YYYYMM')::timestamp
                            AT TIME ZONE 'UTC' AS starts_at) AS m
 WHERE i.inhparent = 'usage_rollup_hourly'::regclass;

-- The rows of a window, which begins and ends with a whole minute: minutes and hours at its edges, days inside.
-- `bounds` are the six instants at which they meet: minutes are read in [1, 2) and [5, 6), hours in [2, 3) and
-- [4, 5), days in [3, 4). The planner inlines it.
CREATE FUNCTION usage_rollups_between(of_tenant uuid, of_minutes text, of_hours text, of_days text, bounds timestamptz[])
RETURNS SETOF usage_rollups
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT u.tenant_id, u.rollup, u.starts_at, u.environment_id, u.model_id, u.api_key_id, u.region_id, u.requests,
           u.successes, u.failures, u.prompt_tokens, u.completion_tokens, u.total_tokens, u.cached_tokens, u.cost_nanos,
           u.latency_count, u.latency_sum, u.latency_min, u.latency_max, u.latencies, u.first_at, u.last_at
      FROM usage_rollups u
     WHERE u.tenant_id = of_tenant
       AND (u.rollup = of_minutes AND u.starts_at >= bounds[1] AND u.starts_at < bounds[2]
            OR u.rollup = of_minutes AND u.starts_at >= bounds[5] AND u.starts_at < bounds[6]
            OR u.rollup = of_hours AND u.starts_at >= bounds[2] AND u.starts_at < bounds[3]
            OR u.rollup = of_hours AND u.starts_at >= bounds[4] AND u.starts_at < bounds[5]
            OR u.rollup = of_days AND u.starts_at >= bounds[3] AND u.starts_at < bounds[4])
$$;
GRANT EXECUTE ON FUNCTION usage_rollups_between TO spotplane_app;

-- The rollups of a window of whole days as the raw records define them.
CREATE FUNCTION usage_rollups_from_records(of_tenant uuid, window_start timestamptz, window_end timestamptz)
RETURNS SETOF usage_rollups
LANGUAGE sql STABLE AS $$
    SELECT of_tenant, b.rollup, b.starts_at, b.environment_id, b.model_id, b.api_key_id, b.region_id,
           sum(b.requests)::bigint, sum(b.successes)::bigint, (sum(b.requests) - sum(b.successes))::bigint,
           sum(b.prompt_tokens)::bigint, sum(b.completion_tokens)::bigint, sum(b.total_tokens)::bigint,
           sum(b.cached_tokens)::bigint, sum(b.cost_nanos)::bigint, sum(b.latency_count)::bigint,
           coalesce(sum(b.latency_sum), 0)::bigint, min(b.latency_min), max(b.latency_max),
           coalesce(sum((b.latency_count::text || 'e' || 12 * b.bucket)::numeric), 0), min(b.first_at), max(b.last_at)
      FROM (SELECT d.rollup, date_trunc(d.unit, u."timestamp", 'UTC') AS starts_at,
                   CASE WHEN d.by_environment THEN u.environment_id END AS environment_id,
                   CASE WHEN d.by_model THEN u.model_id END AS model_id,
                   CASE WHEN d.by_api_key THEN u.api_key_id END AS api_key_id,
                   CASE WHEN d.by_region THEN u.region_id END AS region_id,
                   latency_bucket(u.latency_ms) AS bucket,
                   count(*) AS requests, count(*) FILTER (WHERE u.outcome = 'success') AS successes,
                   sum(u.prompt_tokens) AS prompt_tokens, sum(u.completion_tokens) AS completion_tokens,
                   sum(u.total_tokens) AS total_tokens, sum(u.cached_tokens) AS cached_tokens,
                   sum(u.cost_nanos) AS cost_nanos, count(u.latency_ms) AS latency_count,
                   sum(u.latency_ms) AS latency_sum, min(u.latency_ms) AS latency_min,
                   max(u.latency_ms) AS latency_max, min(u."timestamp") AS first_at, max(u."timestamp") AS last_at
              FROM usage_records u
             CROSS JOIN usage_rollup_definitions d
             WHERE u.tenant_id = of_tenant AND u."timestamp" >= window_start AND u."timestamp" < window_end
             GROUP BY 1, 2, 3, 4, 5, 6, 7) AS b
     GROUP BY b.rollup, b.starts_at, b.environment_id, b.model_id, b.api_key_id, b.region_id
$$;
GRANT EXECUTE ON FUNCTION usage_rollups_from_records TO spotplane_app;

-- The stored rollups and busiest minutes of a window, to be compared with the above.
CREATE FUNCTION usage_rollups_stored(of_tenant uuid, window_start timestamptz, window_end timestamptz)
RETURNS SETOF usage_rollups
LANGUAGE sql STABLE AS $$
    SELECT u.tenant_id, u.rollup, u.starts_at, u.environment_id, u.model_id, u.api_key_id, u.region_id, u.requests,
           u.successes, u.failures, u.prompt_tokens, u.completion_tokens, u.total_tokens, u.cached_tokens, u.cost_nanos,
           u.latency_count, u.latency_sum, u.latency_min, u.latency_max, u.latencies, u.first_at, u.last_at
      FROM usage_rollups u
     WHERE u.tenant_id = of_tenant AND u.starts_at >= window_start AND u.starts_at < window_end
$$;
GRANT EXECUTE ON FUNCTION usage_rollups_stored TO spotplane_app;
ALTER FUNCTION usage_peaks_kept RENAME TO usage_peaks_stored;

-- What was summed before.
INSERT INTO usage_rollups
SELECT tenant_id, 'hour_all', hour, environment_id, model_id, api_key_id, region_id, requests, successes, failures,
       prompt_tokens, completion_tokens, total_tokens, cached_tokens, cost_nanos, latency_count, latency_sum,
       latency_min, latency_max, sketch_number(latency_sketch), first_at, last_at
  FROM usage_rollup_hourly
UNION ALL
SELECT tenant_id, 'minute_model', minute, NULL, model_id, NULL, NULL, requests, successes, failures,
       prompt_tokens, completion_tokens, total_tokens, cached_tokens, cost_nanos, latency_count, latency_sum,
       latency_min, latency_max, sketch_number(latency_sketch), first_at, last_at
  FROM usage_rollup_minute
UNION ALL
SELECT tenant_id, 'day_model', day, NULL, model_id, NULL, NULL, requests, successes, failures,
       prompt_tokens, completion_tokens, total_tokens, cached_tokens, cost_nanos, latency_count, latency_sum,
       latency_min, latency_max, latencies + sketch_number(latency_sketch), first_at, last_at
  FROM usage_rollup_daily
UNION ALL
SELECT tenant_id, cut, starts_at, NULL,
       CASE WHEN cut IN ('hour_model', 'day_model_api_key', 'day_model_region') THEN group_id END,
       CASE WHEN cut IN ('hour_api_key', 'day_api_key', 'day_api_key_region') THEN group_id
            WHEN cut = 'day_model_api_key' THEN other_id END,
       CASE WHEN cut IN ('hour_region', 'day_region') THEN group_id
            WHEN cut IN ('day_model_region', 'day_api_key_region') THEN other_id END,
       requests, successes, failures, prompt_tokens, completion_tokens, total_tokens, cached_tokens, cost_nanos,
       latency_count, latency_sum, latency_min, latency_max, latencies, first_at, last_at
  FROM usage_rollup_cuts;

DROP FUNCTION usage_hours_by_records, usage_models_by_records, usage_hours_kept, usage_days_kept, usage_minutes_kept,
              usage_cuts_by_records, usage_cuts_kept;
DROP FUNCTION IF EXISTS usage_days_by_records;
DELETE FROM partitioned_tables
 WHERE name IN ('usage_rollup_hourly', 'usage_rollup_daily', 'usage_rollup_minute', 'usage_rollup_cuts');
DROP TABLE usage_rollup_hourly, usage_rollup_daily, usage_rollup_minute, usage_rollup_cuts;
DROP FUNCTION sketch_number, compact_sketch;

-- A batch adds to the rollups of its records: few rows show whose usage changed.
CREATE TRIGGER usage_rollups_inserted AFTER INSERT ON usage_rollups
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION raise_usage_revisions();
CREATE TRIGGER usage_rollups_updated AFTER UPDATE ON usage_rollups
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION raise_usage_revisions();
