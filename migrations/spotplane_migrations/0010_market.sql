-- The market's history: every price as it was told, and the clean series made of them, a price a pool
-- and five minutes. Prices belong to no tenant.

-- As told, append-only; retention drops whole months.
CREATE TABLE raw_prices (
    received_at   timestamptz NOT NULL,
    id            uuid NOT NULL,
    pool_id       text NOT NULL,
    price_nanousd bigint NOT NULL CHECK (price_nanousd > 0),
    observed_at   timestamptz NOT NULL,
    -- Which part of a fleet told it: primary, replica-automatic, replica-manual or unknown.
    source        text NOT NULL,
    -- The report it came with: the same one told twice counts once.
    submission_id text NOT NULL,
    -- Kept for tracing a bad price, never shown to another tenant.
    agent_id      uuid,
    -- Order in which the pipeline takes rows; null once taken.
    pending       boolean NOT NULL DEFAULT true,
    PRIMARY KEY (received_at, id)
) PARTITION BY RANGE (received_at);
CREATE INDEX raw_prices_pending ON raw_prices (pool_id, observed_at) WHERE pending;
CREATE INDEX raw_prices_pool ON raw_prices (pool_id, observed_at);
GRANT SELECT, INSERT, UPDATE ON raw_prices TO spotplane_app;

CREATE TABLE clean_prices (
    pool_id       text NOT NULL,
    bucket_at     timestamptz NOT NULL,  -- start of the five minutes
    price_nanousd bigint NOT NULL CHECK (price_nanousd > 0),
    source        text NOT NULL
        CONSTRAINT clean_prices_source_check CHECK (source IN
            ('primary', 'replica-automatic', 'replica-manual', 'interpolated', 'unknown')),
    confidence    real NOT NULL CHECK (confidence BETWEEN 0 AND 1),
    updated_at    timestamptz NOT NULL,
    PRIMARY KEY (pool_id, bucket_at)
) PARTITION BY RANGE (bucket_at);
GRANT SELECT, INSERT, UPDATE ON clean_prices TO spotplane_app;

-- Clean on-demand prices: a row when a price is first seen or differs from the newest.
CREATE TABLE on_demand_price_history (
    region        text NOT NULL,
    instance_type text NOT NULL,
    observed_at   timestamptz NOT NULL,
    price_nanousd bigint NOT NULL CHECK (price_nanousd > 0),
    PRIMARY KEY (region, instance_type, observed_at)
);
GRANT SELECT, INSERT ON on_demand_price_history TO spotplane_app;
INSERT INTO on_demand_price_history SELECT region, instance_type, observed_at, price_nanousd FROM on_demand_prices;

CREATE TABLE pool_scores (
    pool_id     text NOT NULL,
    computed_at timestamptz NOT NULL,
    score       real NOT NULL CHECK (score BETWEEN 0 AND 100),
    class       text NOT NULL CONSTRAINT pool_scores_class_check CHECK (class IN ('safe', 'caution', 'avoid')),
    risk        real NOT NULL,
    volatility  real,
    PRIMARY KEY (pool_id, computed_at)
);
GRANT SELECT, INSERT, DELETE ON pool_scores TO spotplane_app;

-- What each run of a job over prices did.
CREATE TABLE pipeline_runs (
    id                 uuid PRIMARY KEY,
    job                text NOT NULL,
    status             text NOT NULL CONSTRAINT pipeline_runs_status_check CHECK (status IN ('running', 'completed', 'failed')),
    started_at         timestamptz NOT NULL,
    completed_at       timestamptz,
    records_processed  bigint NOT NULL DEFAULT 0,
    duplicates_removed bigint NOT NULL DEFAULT 0,
    gaps_interpolated  bigint NOT NULL DEFAULT 0,
    backfills_added    bigint NOT NULL DEFAULT 0,
    error              text
);
CREATE INDEX pipeline_runs_recent ON pipeline_runs (started_at DESC);
GRANT SELECT, INSERT, UPDATE, DELETE ON pipeline_runs TO spotplane_app;

INSERT INTO partitioned_tables VALUES ('raw_prices'), ('clean_prices');
SELECT ensure_partition(parent, starts_at, starts_at + interval '1 month')
  FROM unnest(ARRAY['raw_prices', 'clean_prices']) AS parent,
       generate_series(date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - interval '2 months',
                       date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + interval '3 months',
                       interval '1 month') AS starts_at;
