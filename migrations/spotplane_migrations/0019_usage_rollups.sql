-- Sums by day and by minute beside those by hour, for long windows and for the last days; what each sum
-- must be by the raw records; and how long the months of usage are kept.

CREATE TABLE usage_rollup_daily (
    tenant_id         uuid NOT NULL,
    day               timestamptz NOT NULL,
    model_id          uuid,
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
    latency_sketch    bigint[] NOT NULL,
    first_at          timestamptz NOT NULL,
    last_at           timestamptz NOT NULL,
    CONSTRAINT usage_rollup_daily_key UNIQUE NULLS NOT DISTINCT (tenant_id, day, model_id)
) PARTITION BY RANGE (day);
CALL isolate_tenants('usage_rollup_daily');
GRANT SELECT, INSERT, UPDATE, DELETE ON usage_rollup_daily TO spotplane_app;

CREATE TABLE usage_rollup_minute (
    tenant_id         uuid NOT NULL,
    minute            timestamptz NOT NULL,
    model_id          uuid,
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
    latency_sketch    bigint[] NOT NULL,
    first_at          timestamptz NOT NULL,
    last_at           timestamptz NOT NULL,
    CONSTRAINT usage_rollup_minute_key UNIQUE NULLS NOT DISTINCT (tenant_id, minute, model_id)
) PARTITION BY RANGE (minute);
CALL isolate_tenants('usage_rollup_minute');
GRANT SELECT, INSERT, UPDATE, DELETE ON usage_rollup_minute TO spotplane_app;

-- Mending replaces sums that are wrong.
GRANT DELETE ON usage_rollup_hourly TO spotplane_app;

UPDATE partitioned_tables SET kept_for = '400 days' WHERE name = 'usage_records';
UPDATE partitioned_tables SET kept_for = '800 days' WHERE name = 'usage_rollup_hourly';
INSERT INTO partitioned_tables (name, kept_for) VALUES
    ('usage_rollup_daily', '3650 days'), ('usage_rollup_minute', '40 days');

-- Days for every month that has hours; minutes for those in which records are still taken, and ahead.
SELECT ensure_partition('usage_rollup_daily', m.starts_at, m.starts_at + interval '1 month')
  FROM pg_inherits i
  JOIN pg_class c ON c.oid = i.inhrelid
 CROSS JOIN LATERAL (SELECT to_timestamp(substring(c.relname FROM '_([0-9]{6})$'), 'YYYYMM')::timestamp
                            AT TIME ZONE 'UTC' AS starts_at) AS m
 WHERE i.inhparent = 'usage_rollup_hourly'::regclass;
SELECT ensure_partition(parent, starts_at, starts_at + interval '1 month')
  FROM unnest(ARRAY['usage_rollup_daily', 'usage_rollup_minute']) AS parent,
       generate_series(date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - interval '2 months',
                       date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + interval '3 months',
                       interval '1 month') AS starts_at;

-- Number of the sketch's bucket that holds a latency, as `bucket` of usage/sketch.py; null of null.
CREATE FUNCTION latency_bucket(latency_ms int) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE WHEN latency_ms <= 0 THEN 0
                ELSE ceil(ln(latency_ms::float8) / ln(1.01::float8 / 0.99::float8))::bigint + 1
           END
$$;
GRANT EXECUTE ON FUNCTION latency_bucket TO spotplane_app;

-- What a tenant's sums of a window must be by its raw records: rows just as the table holds them, the
-- sketches compact.
CREATE FUNCTION usage_hours_by_records(of_tenant uuid, starts_at timestamptz, ends_at timestamptz)
RETURNS SETOF usage_rollup_hourly
LANGUAGE sql STABLE AS $$
    SELECT of_tenant, b.hour, b.environment_id, b.model_id, b.api_key_id, b.region_id,
           sum(b.requests)::bigint, sum(b.successes)::bigint,
           (sum(b.requests) - sum(b.successes))::bigint, sum(b.prompt_tokens)::bigint,
           sum(b.completion_tokens)::bigint, sum(b.total_tokens)::bigint,
           sum(b.cached_tokens)::bigint, sum(b.cost_nanos)::bigint, sum(b.latency_count)::bigint,
           coalesce(sum(b.latency_sum), 0)::bigint, min(b.latency_min), max(b.latency_max),
           coalesce(array_agg((b.bucket << 32) | b.requests ORDER BY b.bucket)
                    FILTER (WHERE b.bucket IS NOT NULL), '{}'),
           min(b.first_at), max(b.last_at)
      FROM (SELECT date_trunc('hour', u."timestamp", 'UTC') AS hour, u.environment_id, u.model_id,
                   u.api_key_id, u.region_id, latency_bucket(u.latency_ms) AS bucket,
                   count(*) AS requests, count(*) FILTER (WHERE u.outcome = 'success') AS successes,
                   sum(u.prompt_tokens) AS prompt_tokens,
                   sum(u.completion_tokens) AS completion_tokens,
                   sum(u.total_tokens) AS total_tokens, sum(u.cached_tokens) AS cached_tokens,
                   sum(u.cost_nanos) AS cost_nanos, count(u.latency_ms) AS latency_count,
                   sum(u.latency_ms) AS latency_sum, min(u.latency_ms) AS latency_min,
                   max(u.latency_ms) AS latency_max, min(u."timestamp") AS first_at,
                   max(u."timestamp") AS last_at
              FROM usage_records u
             WHERE u.tenant_id = of_tenant AND u."timestamp" >= starts_at AND u."timestamp" < ends_at
             GROUP BY 1, 2, 3, 4, 5, 6) AS b
     GROUP BY 2, 3, 4, 5, 6
$$;
GRANT EXECUTE ON FUNCTION usage_hours_by_records TO spotplane_app;

-- As above, by days or minutes (`unit`) and models; the columns of both tables are alike.
CREATE FUNCTION usage_models_by_records(of_tenant uuid, unit text, starts_at timestamptz, ends_at timestamptz)
RETURNS SETOF usage_rollup_daily
LANGUAGE sql STABLE AS $$
    SELECT of_tenant, b.day, b.model_id, sum(b.requests)::bigint, sum(b.successes)::bigint,
           (sum(b.requests) - sum(b.successes))::bigint, sum(b.prompt_tokens)::bigint,
           sum(b.completion_tokens)::bigint, sum(b.total_tokens)::bigint,
           sum(b.cached_tokens)::bigint, sum(b.cost_nanos)::bigint, sum(b.latency_count)::bigint,
           coalesce(sum(b.latency_sum), 0)::bigint, min(b.latency_min), max(b.latency_max),
           coalesce(array_agg((b.bucket << 32) | b.requests ORDER BY b.bucket)
                    FILTER (WHERE b.bucket IS NOT NULL), '{}'),
           min(b.first_at), max(b.last_at)
      FROM (SELECT date_trunc(unit, u."timestamp", 'UTC') AS day, u.model_id,
                   latency_bucket(u.latency_ms) AS bucket,
                   count(*) AS requests, count(*) FILTER (WHERE u.outcome = 'success') AS successes,
                   sum(u.prompt_tokens) AS prompt_tokens,
                   sum(u.completion_tokens) AS completion_tokens,
                   sum(u.total_tokens) AS total_tokens, sum(u.cached_tokens) AS cached_tokens,
                   sum(u.cost_nanos) AS cost_nanos, count(u.latency_ms) AS latency_count,
                   sum(u.latency_ms) AS latency_sum, min(u.latency_ms) AS latency_min,
                   max(u.latency_ms) AS latency_max, min(u."timestamp") AS first_at,
                   max(u."timestamp") AS last_at
              FROM usage_records u
             WHERE u.tenant_id = of_tenant AND u."timestamp" >= starts_at AND u."timestamp" < ends_at
             GROUP BY 1, 2, 3) AS b
     GROUP BY 2, 3
$$;
GRANT EXECUTE ON FUNCTION usage_models_by_records TO spotplane_app;

-- The sums that are kept, in the same form.
CREATE FUNCTION usage_hours_kept(of_tenant uuid, starts_at timestamptz, ends_at timestamptz)
RETURNS SETOF usage_rollup_hourly
LANGUAGE sql STABLE AS $$
    SELECT tenant_id, hour, environment_id, model_id, api_key_id, region_id,
           requests, successes, failures, prompt_tokens, completion_tokens, total_tokens,
           cached_tokens, cost_nanos, latency_count, latency_sum, latency_min, latency_max,
           coalesce(compact_sketch(latency_sketch), '{}'), first_at, last_at
      FROM usage_rollup_hourly
     WHERE tenant_id = of_tenant AND hour >= starts_at AND hour < ends_at
$$;
GRANT EXECUTE ON FUNCTION usage_hours_kept TO spotplane_app;

CREATE FUNCTION usage_days_kept(of_tenant uuid, starts_at timestamptz, ends_at timestamptz)
RETURNS SETOF usage_rollup_daily
LANGUAGE sql STABLE AS $$
    SELECT tenant_id, day, model_id,
           requests, successes, failures, prompt_tokens, completion_tokens, total_tokens,
           cached_tokens, cost_nanos, latency_count, latency_sum, latency_min, latency_max,
           coalesce(compact_sketch(latency_sketch), '{}'), first_at, last_at
      FROM usage_rollup_daily
     WHERE tenant_id = of_tenant AND day >= starts_at AND day < ends_at
$$;
GRANT EXECUTE ON FUNCTION usage_days_kept TO spotplane_app;

CREATE FUNCTION usage_minutes_kept(of_tenant uuid, starts_at timestamptz, ends_at timestamptz)
RETURNS SETOF usage_rollup_daily
LANGUAGE sql STABLE AS $$
    SELECT tenant_id, minute, model_id,
           requests, successes, failures, prompt_tokens, completion_tokens, total_tokens,
           cached_tokens, cost_nanos, latency_count, latency_sum, latency_min, latency_max,
           coalesce(compact_sketch(latency_sketch), '{}'), first_at, last_at
      FROM usage_rollup_minute
     WHERE tenant_id = of_tenant AND minute >= starts_at AND minute < ends_at
$$;
GRANT EXECUTE ON FUNCTION usage_minutes_kept TO spotplane_app;

-- What was used before there were days and minutes. Days come from the hours, which are kept longest.
INSERT INTO usage_rollup_daily (
       tenant_id, day, model_id, requests, successes, failures, prompt_tokens, completion_tokens,
       total_tokens, cached_tokens, cost_nanos, latency_count, latency_sum, latency_min, latency_max,
       latency_sketch, first_at, last_at)
SELECT s.tenant_id, s.day, s.model_id, s.requests, s.successes, s.failures, s.prompt_tokens,
       s.completion_tokens, s.total_tokens, s.cached_tokens, s.cost_nanos, s.latency_count,
       s.latency_sum, s.latency_min, s.latency_max,
       coalesce((SELECT array_agg((p.bucket << 32) | p.total ORDER BY p.bucket)
                   FROM (SELECT part >> 32 AS bucket, sum(part & 4294967295)::bigint AS total
                           FROM usage_rollup_hourly h, unnest(h.latency_sketch) AS part
                          WHERE h.tenant_id = s.tenant_id AND h.hour >= s.day
                            AND h.hour < s.day + interval '24 hours'
                            AND h.model_id IS NOT DISTINCT FROM s.model_id
                          GROUP BY 1) AS p), '{}'),
       s.first_at, s.last_at
  FROM (SELECT tenant_id, date_trunc('day', hour, 'UTC') AS day, model_id,
               sum(requests)::bigint AS requests, sum(successes)::bigint AS successes,
               sum(failures)::bigint AS failures, sum(prompt_tokens)::bigint AS prompt_tokens,
               sum(completion_tokens)::bigint AS completion_tokens,
               sum(total_tokens)::bigint AS total_tokens, sum(cached_tokens)::bigint AS cached_tokens,
               sum(cost_nanos)::bigint AS cost_nanos, sum(latency_count)::bigint AS latency_count,
               sum(latency_sum)::bigint AS latency_sum, min(latency_min) AS latency_min,
               max(latency_max) AS latency_max, min(first_at) AS first_at, max(last_at) AS last_at
          FROM usage_rollup_hourly
         GROUP BY 1, 2, 3) AS s;

INSERT INTO usage_rollup_minute (
       tenant_id, minute, model_id, requests, successes, failures, prompt_tokens, completion_tokens,
       total_tokens, cached_tokens, cost_nanos, latency_count, latency_sum, latency_min, latency_max,
       latency_sketch, first_at, last_at)
SELECT s.tenant_id, s.day, s.model_id, s.requests, s.successes, s.failures, s.prompt_tokens,
       s.completion_tokens, s.total_tokens, s.cached_tokens, s.cost_nanos, s.latency_count,
       s.latency_sum, s.latency_min, s.latency_max, s.latency_sketch, s.first_at, s.last_at
  FROM tenants t
 CROSS JOIN LATERAL usage_models_by_records(t.id, 'minute', date_trunc('day', now() - interval '40 days', 'UTC'),
                                            now() + interval '1 hour') AS s;
