-- Days of two dimensions, so that the models of one key over months are a thousand rows, not one for every hour
-- and every combination with all regions and environments; and days of none, one row each.

-- Of pairs `group_id` is the first and `other_id` the second, in the order of the cut's name.
ALTER TABLE usage_rollup_cuts
    ADD COLUMN other_id uuid,
    DROP CONSTRAINT usage_rollup_cuts_key,
    ADD CONSTRAINT usage_rollup_cuts_key
        UNIQUE NULLS NOT DISTINCT (tenant_id, cut, starts_at, group_id, other_id),
    DROP CONSTRAINT usage_rollup_cuts_cut_check,
    ADD CONSTRAINT usage_rollup_cuts_cut_check CHECK (cut IN (
        'hour', 'hour_model', 'hour_api_key', 'hour_region', 'day', 'day_api_key', 'day_region',
        'day_model_api_key', 'day_model_region', 'day_api_key_region'));

DROP FUNCTION usage_cuts_by_records;
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
           min(b.first_at), max(b.last_at), b.other_id
      FROM (SELECT CASE c.of WHEN 7 THEN 'hour' WHEN 3 THEN 'hour_model' WHEN 5 THEN 'hour_api_key'
                             WHEN 6 THEN 'hour_region' WHEN 13 THEN 'day_api_key'
                             WHEN 14 THEN 'day_region' WHEN 15 THEN 'day' WHEN 9 THEN 'day_model_api_key'
                             WHEN 10 THEN 'day_model_region' WHEN 12 THEN 'day_api_key_region'
                   END AS cut,
                   coalesce(c.hour, c.day) AS starts_at,
                   CASE WHEN c.of IN (3, 9, 10) THEN c.model_id WHEN c.of IN (5, 13, 12) THEN c.api_key_id
                        ELSE c.region_id END AS group_id,
                   CASE c.of WHEN 9 THEN c.api_key_id WHEN 10 THEN c.region_id WHEN 12 THEN c.region_id
                   END AS other_id,
                   c.bucket, c.requests, c.successes, c.prompt_tokens, c.completion_tokens, c.total_tokens,
                   c.cached_tokens, c.cost_nanos, c.latency_count, c.latency_sum, c.latency_min,
                   c.latency_max, c.first_at, c.last_at
              FROM (SELECT grouping(u.hour, u.model_id, u.api_key_id, u.region_id) AS of,
                           u.hour, u.day, u.model_id, u.api_key_id, u.region_id, u.bucket,
                           count(*) AS requests,
                           count(*) FILTER (WHERE u.outcome = 'success') AS successes,
                           sum(u.prompt_tokens) AS prompt_tokens,
                           sum(u.completion_tokens) AS completion_tokens,
                           sum(u.total_tokens) AS total_tokens, sum(u.cached_tokens) AS cached_tokens,
                           sum(u.cost_nanos) AS cost_nanos, count(u.latency_ms) AS latency_count,
                           sum(u.latency_ms) AS latency_sum, min(u.latency_ms) AS latency_min,
                           max(u.latency_ms) AS latency_max, min(u."timestamp") AS first_at,
                           max(u."timestamp") AS last_at
                      FROM (SELECT date_trunc('hour', r."timestamp", 'UTC') AS hour,
                                   date_trunc('day', r."timestamp", 'UTC') AS day, r.model_id,
                                   r.api_key_id, r.region_id, latency_bucket(r.latency_ms) AS bucket,
                                   r.outcome, r.prompt_tokens, r.completion_tokens, r.total_tokens,
                                   r.cached_tokens, r.cost_nanos, r.latency_ms, r."timestamp"
                              FROM usage_records r
                             WHERE r.tenant_id = of_tenant
                               AND r."timestamp" >= usage_cuts_by_records.starts_at
                               AND r."timestamp" < ends_at) AS u
                     GROUP BY GROUPING SETS ((u.hour, u.bucket), (u.hour, u.model_id, u.bucket),
                                             (u.hour, u.api_key_id, u.bucket),
                                             (u.hour, u.region_id, u.bucket),
                                             (u.day, u.bucket), (u.day, u.api_key_id, u.bucket),
                                             (u.day, u.region_id, u.bucket),
                                             (u.day, u.model_id, u.api_key_id, u.bucket),
                                             (u.day, u.model_id, u.region_id, u.bucket),
                                             (u.day, u.api_key_id, u.region_id, u.bucket))) AS c) AS b
     GROUP BY 2, 3, 4, b.other_id
$$;
GRANT EXECUTE ON FUNCTION usage_cuts_by_records TO spotplane_app;

DROP FUNCTION usage_cuts_kept;
CREATE FUNCTION usage_cuts_kept(of_tenant uuid, starts_at timestamptz, ends_at timestamptz)
RETURNS SETOF usage_rollup_cuts
LANGUAGE sql STABLE AS $$
    SELECT c.tenant_id, c.cut, c.starts_at, c.group_id,
           c.requests, c.successes, c.failures, c.prompt_tokens, c.completion_tokens, c.total_tokens,
           c.cached_tokens, c.cost_nanos, c.latency_count, c.latency_sum, c.latency_min, c.latency_max,
           c.latencies, c.first_at, c.last_at, c.other_id
      FROM usage_rollup_cuts c
     WHERE c.tenant_id = of_tenant AND c.starts_at >= usage_cuts_kept.starts_at AND c.starts_at < ends_at
$$;
GRANT EXECUTE ON FUNCTION usage_cuts_kept TO spotplane_app;

-- What was used before. Hours are kept longer than records.
INSERT INTO usage_rollup_cuts
SELECT s.tenant_id, s.cut, s.day, s.group_id, s.requests, s.successes, s.requests - s.successes,
       s.prompt_tokens, s.completion_tokens, s.total_tokens, s.cached_tokens, s.cost_nanos, s.latency_count,
       s.latency_sum, s.latency_min, s.latency_max, s.latencies, s.first_at, s.last_at, s.other_id
  FROM (SELECT h.tenant_id, h.day,
               CASE grouping(h.model_id, h.api_key_id, h.region_id)
                    WHEN 1 THEN 'day_model_api_key' WHEN 2 THEN 'day_model_region'
                    WHEN 4 THEN 'day_api_key_region' ELSE 'day' END AS cut,
               CASE WHEN grouping(h.model_id) = 0 THEN h.model_id ELSE h.api_key_id END AS group_id,
               CASE WHEN grouping(h.region_id) = 0 THEN h.region_id ELSE h.api_key_id END AS other_id,
               sum(h.requests)::bigint AS requests, sum(h.successes)::bigint AS successes,
               sum(h.prompt_tokens)::bigint AS prompt_tokens,
               sum(h.completion_tokens)::bigint AS completion_tokens,
               sum(h.total_tokens)::bigint AS total_tokens, sum(h.cached_tokens)::bigint AS cached_tokens,
               sum(h.cost_nanos)::bigint AS cost_nanos, sum(h.latency_count)::bigint AS latency_count,
               sum(h.latency_sum)::bigint AS latency_sum, min(h.latency_min) AS latency_min,
               max(h.latency_max) AS latency_max, sum(h.latencies) AS latencies,
               min(h.first_at) AS first_at, max(h.last_at) AS last_at
          FROM (SELECT date_trunc('day', hour, 'UTC') AS day, tenant_id, model_id, api_key_id, region_id,
                       requests, successes, prompt_tokens, completion_tokens, total_tokens, cached_tokens,
                       cost_nanos, latency_count, latency_sum, latency_min, latency_max,
                       sketch_number(latency_sketch) AS latencies, first_at, last_at
                  FROM usage_rollup_hourly) AS h
         GROUP BY GROUPING SETS ((h.tenant_id, h.day), (h.tenant_id, h.day, h.model_id, h.api_key_id),
                                 (h.tenant_id, h.day, h.model_id, h.region_id),
                                 (h.tenant_id, h.day, h.api_key_id, h.region_id))) AS s;
