-- What was used: record by record, by month; each record's id, so that it counts once; and hourly sums.

CREATE TABLE usage_records (
    tenant_id         uuid NOT NULL,
    "timestamp"       timestamptz NOT NULL,
    request_id        text NOT NULL,
    environment_id    uuid,
    api_key_id        uuid,
    model_id          uuid,
    region_id         uuid,
    node_id           text,
    prompt_tokens     bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    cached_tokens     bigint NOT NULL,
    total_tokens      bigint NOT NULL,
    latency_ms        int,
    status_code       int,
    outcome           text NOT NULL,
    -- Prices in force at the record's time, USD per million tokens; null without a model.
    price_input       numeric(12, 6),
    price_cached      numeric(12, 6),
    price_output      numeric(12, 6),
    region_multiplier numeric(10, 4),
    cost_nanos        bigint NOT NULL,
    metadata          jsonb,
    ingested_at       timestamptz NOT NULL
) PARTITION BY RANGE ("timestamp");
CREATE INDEX usage_records_tenant ON usage_records (tenant_id, "timestamp" DESC);
CREATE INDEX usage_records_model ON usage_records (tenant_id, model_id, "timestamp");
CREATE INDEX usage_records_api_key ON usage_records (tenant_id, api_key_id, "timestamp");
CREATE INDEX usage_records_time ON usage_records USING brin ("timestamp");
CALL isolate_tenants('usage_records');
GRANT SELECT, INSERT ON usage_records TO spotplane_app;

-- A unique index of a partitioned table must contain the partition key, so `usage_records` cannot keep
-- request ids unique: this table does, in the same transaction.
CREATE TABLE usage_dedup (
    tenant_id    uuid NOT NULL,
    request_id   text COLLATE "C" NOT NULL,
    content_hash bytea NOT NULL,
    "timestamp"  timestamptz NOT NULL,
    CONSTRAINT usage_dedup_pkey PRIMARY KEY (tenant_id, request_id)
);
-- Rows come nearly in the order of their time; retention finds the old ones by it, at next to no cost.
CREATE INDEX usage_dedup_time ON usage_dedup USING brin ("timestamp") WITH (pages_per_range = 32);
CALL isolate_tenants('usage_dedup');
GRANT SELECT, INSERT, DELETE ON usage_dedup TO spotplane_app;

-- `latency_sketch` holds DDSketch buckets, each number `bucket << 32 | count`; see usage/sketch.py. A bucket
-- may occur more than once: merging is concatenation, and only a long sketch is compacted.
CREATE TABLE usage_rollup_hourly (
    tenant_id         uuid NOT NULL,
    hour              timestamptz NOT NULL,
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
    latency_sketch    bigint[] NOT NULL,
    first_at          timestamptz NOT NULL,
    last_at           timestamptz NOT NULL,
    CONSTRAINT usage_rollup_hourly_key
        UNIQUE NULLS NOT DISTINCT (tenant_id, hour, environment_id, model_id, api_key_id, region_id)
) PARTITION BY RANGE (hour);
CALL isolate_tenants('usage_rollup_hourly');
GRANT SELECT, INSERT, UPDATE ON usage_rollup_hourly TO spotplane_app;

-- Adds up the counts of equal buckets. Merging sketches is adding counts, in any order.
CREATE FUNCTION compact_sketch(sketch bigint[]) RETURNS bigint[]
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT array_agg((b.bucket << 32) | b.total ORDER BY b.bucket)
      FROM (SELECT part >> 32 AS bucket, sum(part & 4294967295)::bigint AS total
              FROM unnest(sketch) AS part
             GROUP BY 1) AS b
$$;
GRANT EXECUTE ON FUNCTION compact_sketch TO spotplane_app;

SELECT ensure_partition(parent, starts_at, starts_at + interval '1 month')
  FROM unnest(ARRAY['usage_records', 'usage_rollup_hourly']) AS parent,
       generate_series(date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - interval '2 months',
                       date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + interval '3 months',
                       interval '1 month') AS starts_at;
