-- The busiest minute of each hour, so that a peak of thirty days is found among 720 rows, not 500,000.

CREATE TABLE usage_rollup_peaks (
    tenant_id uuid NOT NULL,
    hour      timestamptz NOT NULL,
    minute    timestamptz NOT NULL,
    requests  bigint NOT NULL,
    CONSTRAINT usage_rollup_peaks_pkey PRIMARY KEY (tenant_id, hour)
) PARTITION BY RANGE (hour);
CALL isolate_tenants('usage_rollup_peaks');
GRANT SELECT, INSERT, UPDATE, DELETE ON usage_rollup_peaks TO spotplane_app;

-- As long as the minutes, of which they are.
INSERT INTO partitioned_tables (name, kept_for) VALUES ('usage_rollup_peaks', '40 days');
SELECT ensure_partition('usage_rollup_peaks', m.starts_at, m.starts_at + interval '1 month')
  FROM pg_inherits i
  JOIN pg_class c ON c.oid = i.inhrelid
 CROSS JOIN LATERAL (SELECT to_timestamp(substring(c.relname FROM '_([0-9]{6})$'), 'YYYYMM')::timestamp
                            AT TIME ZONE 'UTC' AS starts_at) AS m
 WHERE i.inhparent = 'usage_rollup_minute'::regclass;

INSERT INTO usage_rollup_peaks (tenant_id, hour, minute, requests)
SELECT DISTINCT ON (m.tenant_id, m.hour) m.tenant_id, m.hour, m.minute, m.requests
  FROM (SELECT tenant_id, date_trunc('hour', minute, 'UTC') AS hour, minute, sum(requests)::bigint AS requests
          FROM usage_rollup_minute
         GROUP BY tenant_id, minute) AS m
 ORDER BY m.tenant_id, m.hour, m.requests DESC, m.minute;

-- What they must be by the raw records.
CREATE FUNCTION usage_peaks_by_records(of_tenant uuid, starts_at timestamptz, ends_at timestamptz)
RETURNS SETOF usage_rollup_peaks
LANGUAGE sql STABLE AS $$
    SELECT DISTINCT ON (m.hour) of_tenant, m.hour, m.minute, m.requests
      FROM (SELECT date_trunc('hour', u."timestamp", 'UTC') AS hour,
                   date_trunc('minute', u."timestamp", 'UTC') AS minute, count(*) AS requests
              FROM usage_records u
             WHERE u.tenant_id = of_tenant AND u."timestamp" >= starts_at AND u."timestamp" < ends_at
             GROUP BY 1, 2) AS m
     ORDER BY m.hour, m.requests DESC, m.minute
$$;
GRANT EXECUTE ON FUNCTION usage_peaks_by_records TO spotplane_app;

CREATE FUNCTION usage_peaks_kept(of_tenant uuid, starts_at timestamptz, ends_at timestamptz)
RETURNS SETOF usage_rollup_peaks
LANGUAGE sql STABLE AS $$
    SELECT tenant_id, hour, minute, requests
      FROM usage_rollup_peaks
     WHERE tenant_id = of_tenant AND hour >= starts_at AND hour < ends_at
$$;
GRANT EXECUTE ON FUNCTION usage_peaks_kept TO spotplane_app;
