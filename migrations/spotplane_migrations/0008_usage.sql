-- What was used, record by record, by month.

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
    price_input       numeric(12, 6),
    price_cached      numeric(12, 6),
    price_output      numeric(12, 6),
    region_multiplier numeric(10, 4),
    cost_nanos        bigint NOT NULL,
    metadata          jsonb,
    ingested_at       timestamptz NOT NULL
) PARTITION BY RANGE ("timestamp");
CREATE INDEX usage_records_tenant ON usage_records (tenant_id, "timestamp" DESC);
CALL isolate_tenants('usage_records');
GRANT SELECT, INSERT ON usage_records TO spotplane_app;
