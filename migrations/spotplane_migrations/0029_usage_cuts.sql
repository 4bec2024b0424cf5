-- Sums by one dimension at a time, so that an answer over months reads hundreds of rows, not every combination
-- of model, key and region; and sketches that PostgreSQL adds up itself.

-- A sketch as one number: bucket `b` counts in the twelve decimal digits from digit 12 b on. Merging sketches is
-- adding numbers, which `sum` does at the speed of C. Twelve digits hold more than any answer can count.
CREATE FUNCTION sketch_number(sketch bigint[]) RETURNS numeric
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT coalesce(sum(((part & 4294967295)::text || 'e' || 12 * (part >> 32))::numeric), 0)
      FROM unnest(sketch) AS part
$$;
GRANT EXECUTE ON FUNCTION sketch_number TO spotplane_app;

-- `cut` says of what a row is: of an hour, or of an hour or a day of one model, key or region, which is then
-- `group_id`; null is what has none.
CREATE TABLE usage_rollup_cuts (
    tenant_id         uuid NOT NULL,
    cut               text NOT NULL CONSTRAINT usage_rollup_cuts_cut_check CHECK (cut IN (
                          'hour', 'hour_model', 'hour_api_key', 'hour_region', 'day_api_key', 'day_region')),
    starts_at         timestamptz NOT NULL,
    group_id          uuid,
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
    CONSTRAINT usage_rollup_cuts_key UNIQUE NULLS NOT DISTINCT (tenant_id, cut, starts_at, group_id)
) PARTITION BY RANGE (starts_at);
CALL isolate_tenants('usage_rollup_cuts');
GRANT SELECT, INSERT, UPDATE, DELETE ON usage_rollup_cuts TO spotplane_app;

-- As long as the hours, of which they are.
INSERT INTO partitioned_tables (name, kept_for) VALUES ('usage_rollup_cuts', '800 days');
SELECT ensure_partition('usage_rollup_cuts', m.starts_at, m.starts_at + interval '1 month')
  FROM pg_inherits i
  JOIN pg_class c ON c.oid = i.inhrelid
 CROSS JOIN LATERAL (SELECT to_timestamp(substring(c.relname FROM '_([0-9]{6})$'), 'YYYYMM')::timestamp
                            AT TIME ZONE 'UTC' AS starts_at) AS m
 WHERE i.inhparent = 'usage_rollup_hourly'::regclass;

-- Days of models too are added up by number. A server of the version before still appends to `latency_sketch`:
-- what a day counts is both together.
ALTER TABLE usage_rollup_daily ADD COLUMN latencies numeric NOT NULL DEFAULT 0,
                               ALTER COLUMN latency_sketch SET DEFAULT '{}';
UPDATE usage_rollup_daily SET latencies = sketch_number(latency_sketch), latency_sketch = '{}';

-- What was used before. Hours are kept longer than records.
INSERT INTO usage_rollup_cuts
SELECT s.tenant_id, s.cut, s.starts_at, s.group_id, s.requests, s.successes, s.requests - s.successes,
       s.prompt_tokens, s.completion_tokens, s.total_tokens, s.cached_tokens, s.cost_nanos, s.latency_count,
       s.latency_sum, s.latency_min, s.latency_max, s.latencies, s.first_at, s.last_at
  FROM (SELECT h.tenant_id,
               CASE grouping(h.hour, h.model_id, h.api_key_id, h.region_id)
                    WHEN 7 THEN 'hour' WHEN 3 THEN 'hour_model' WHEN 5 THEN 'hour_api_key'
                    WHEN 6 THEN 'hour_region' WHEN 13 THEN 'day_api_key' WHEN 14 THEN 'day_region' END AS cut,
               coalesce(h.hour, h.day) AS starts_at, coalesce(h.model_id, h.api_key_id, h.region_id) AS group_id,
               sum(h.requests)::bigint AS requests, sum(h.successes)::bigint AS successes,
               sum(h.prompt_tokens)::bigint AS prompt_tokens,
               sum(h.completion_tokens)::bigint AS completion_tokens,
               sum(h.total_tokens)::bigint AS total_tokens, sum(h.cached_tokens)::bigint AS cached_tokens,
               sum(h.cost_nanos)::bigint AS cost_nanos, sum(h.latency_count)::bigint AS latency_count,
               sum(h.latency_sum)::bigint AS latency_sum, min(h.latency_min) AS latency_min,
               max(h.latency_max) AS latency_max, sum(h.latencies) AS latencies,
               min(h.first_at) AS first_at, max(h.last_at) AS last_at
          FROM (SELECT date_trunc('day', hour, 'UTC') AS day, hour, tenant_id, model_id, api_key_id, region_id,
                       requests, successes, prompt_tokens, completion_tokens, total_tokens, cached_tokens,
                       cost_nanos, latency_count, latency_sum, latency_min, latency_max,
                       sketch_number(latency_sketch) AS latencies, first_at, last_at
                  FROM usage_rollup_hourly) AS h
         GROUP BY GROUPING SETS ((h.tenant_id, h.hour), (h.tenant_id, h.hour, h.model_id),
                                 (h.tenant_id, h.hour, h.api_key_id), (h.tenant_id, h.hour, h.region_id),
                                 (h.tenant_id, h.day, h.api_key_id), (h.tenant_id, h.day, h.region_id))) AS s;

-- What they must be by the raw records, and what is kept, in one form.
CREATE FUNCTION usage_cuts_by_records(of_tenant uuid, starts_at timestamptz, ends_at timestamptz)
RETURNS SETOF usage_rollup_cuts
LANGUAGE sql STABLE AS $$
    SELECT of_tenant, b.cut, b.starts_at, b.group_id,
           sum(b.requests)::bigint, sum(b.successes)::bigint,
           (sum(b.requests) - sum(b.successes))::bigint, sum(b.prompt_tokens)::bigint,
           sum(b.completion_tokens)::bigint, sum(b.total_tokens)::bigint,
           sum(b.cached_tokens)::bigint, sum(b.cost_nanos)::bigint, sum(b.latency_count)::bigint,
           coalesce(sum(b.latency_sum), 0)::bigint, min(b.latency_min), max(b.latency_max),
           coalesce(sum((b.latency_count::text || 'e' || 12 * b.bucket)::numeric), 0),
           min(b.first_at), max(b.last_at)
      FROM (SELECT CASE grouping(u.hour, u.model_id, u.api_key_id, u.region_id)
                        WHEN 7 THEN 'hour' WHEN 3 THEN 'hour_model' WHEN 5 THEN 'hour_api_key'
                        WHEN 6 THEN 'hour_region' WHEN 13 THEN 'day_api_key'
                        WHEN 14 THEN 'day_region' END AS cut,
                   coalesce(u.hour, u.day) AS starts_at,
                   coalesce(u.model_id, u.api_key_id, u.region_id) AS group_id, u.bucket,
                   count(*) AS requests, count(*) FILTER (WHERE u.outcome = 'success') AS successes,
                   sum(u.prompt_tokens) AS prompt_tokens,
                   sum(u.completion_tokens) AS completion_tokens,
                   sum(u.total_tokens) AS total_tokens, sum(u.cached_tokens) AS cached_tokens,
                   sum(u.cost_nanos) AS cost_nanos, count(u.latency_ms) AS latency_count,
                   sum(u.latency_ms) AS latency_sum, min(u.latency_ms) AS latency_min,
                   max(u.latency_ms) AS latency_max, min(u."timestamp") AS first_at,
                   max(u."timestamp") AS last_at
              FROM (SELECT date_trunc('hour', r."timestamp", 'UTC') AS hour,
                           date_trunc('day', r."timestamp", 'UTC') AS day, r.model_id, r.api_key_id,
                           r.region_id, latency_bucket(r.latency_ms) AS bucket, r.outcome,
                           r.prompt_tokens, r.completion_tokens, r.total_tokens, r.cached_tokens,
                           r.cost_nanos, r.latency_ms, r."timestamp"
                      FROM usage_records r
                     WHERE r.tenant_id = of_tenant AND r."timestamp" >= usage_cuts_by_records.starts_at
                       AND r."timestamp" < ends_at) AS u
             GROUP BY GROUPING SETS ((u.hour, u.bucket), (u.hour, u.model_id, u.bucket),
                                     (u.hour, u.api_key_id, u.bucket), (u.hour, u.region_id, u.bucket),
                                     (u.day, u.api_key_id, u.bucket), (u.day, u.region_id, u.bucket))) AS b
     GROUP BY 2, 3, 4
$$;
GRANT EXECUTE ON FUNCTION usage_cuts_by_records TO spotplane_app;

CREATE FUNCTION usage_cuts_kept(of_tenant uuid, starts_at timestamptz, ends_at timestamptz)
RETURNS SETOF usage_rollup_cuts
LANGUAGE sql STABLE AS $$
    SELECT c.tenant_id, c.cut, c.starts_at, c.group_id,
           c.requests, c.successes, c.failures, c.prompt_tokens, c.completion_tokens, c.total_tokens,
           c.cached_tokens, c.cost_nanos, c.latency_count, c.latency_sum, c.latency_min, c.latency_max,
           c.latencies, c.first_at, c.last_at
      FROM usage_rollup_cuts c
     WHERE c.tenant_id = of_tenant AND c.starts_at >= usage_cuts_kept.starts_at AND c.starts_at < ends_at
$$;
GRANT EXECUTE ON FUNCTION usage_cuts_kept TO spotplane_app;

-- The columns of minutes are those of days without `latencies`: so minutes are told, and days from them.
DROP FUNCTION usage_models_by_records;
DROP FUNCTION usage_days_kept;
DROP FUNCTION usage_minutes_kept;

CREATE FUNCTION usage_models_by_records(of_tenant uuid, unit text, starts_at timestamptz, ends_at timestamptz)
RETURNS SETOF usage_rollup_minute
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

CREATE FUNCTION usage_days_by_records(of_tenant uuid, starts_at timestamptz, ends_at timestamptz)
RETURNS SETOF usage_rollup_daily
LANGUAGE sql STABLE AS $$
    SELECT tenant_id, minute, model_id,
           requests, successes, failures, prompt_tokens, completion_tokens, total_tokens,
           cached_tokens, cost_nanos, latency_count, latency_sum, latency_min, latency_max,
           '{}'::bigint[], first_at, last_at, sketch_number(latency_sketch)
      FROM usage_models_by_records(of_tenant, 'day', starts_at, ends_at)
$$;
GRANT EXECUTE ON FUNCTION usage_days_by_records TO spotplane_app;

CREATE FUNCTION usage_days_kept(of_tenant uuid, starts_at timestamptz, ends_at timestamptz)
RETURNS SETOF usage_rollup_daily
LANGUAGE sql STABLE AS $$
    SELECT tenant_id, day, model_id,
           requests, successes, failures, prompt_tokens, completion_tokens, total_tokens,
           cached_tokens, cost_nanos, latency_count, latency_sum, latency_min, latency_max,
           '{}'::bigint[], first_at, last_at, latencies + sketch_number(latency_sketch)
      FROM usage_rollup_daily
     WHERE tenant_id = of_tenant AND day >= starts_at AND day < ends_at
$$;
GRANT EXECUTE ON FUNCTION usage_days_kept TO spotplane_app;

CREATE FUNCTION usage_minutes_kept(of_tenant uuid, starts_at timestamptz, ends_at timestamptz)
RETURNS SETOF usage_rollup_minute
LANGUAGE sql STABLE AS $$
    SELECT tenant_id, minute, model_id,
           requests, successes, failures, prompt_tokens, completion_tokens, total_tokens,
           cached_tokens, cost_nanos, latency_count, latency_sum, latency_min, latency_max,
           coalesce(compact_sketch(latency_sketch), '{}'), first_at, last_at
      FROM usage_rollup_minute
     WHERE tenant_id = of_tenant AND minute >= starts_at AND minute < ends_at
$$;
GRANT EXECUTE ON FUNCTION usage_minutes_kept TO spotplane_app;
