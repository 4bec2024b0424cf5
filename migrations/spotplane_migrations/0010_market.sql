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
    source        text NOT NULL
        CONSTRAINT raw_prices_source_check CHECK (source IN
            ('primary', 'replica-automatic', 'replica-manual', 'unknown')),
    -- The submission it came with: the same one told twice counts once.
    submission_id text NOT NULL,
    -- Kept for tracing a bad price, never shown to another tenant.
    agent_id      uuid,
    -- Not yet taken by the pipeline.
    pending       boolean NOT NULL DEFAULT true,
    PRIMARY KEY (received_at, id)
) PARTITION BY RANGE (received_at);
CREATE INDEX raw_prices_pending ON raw_prices (received_at, id) WHERE pending;
CREATE INDEX raw_prices_submission ON raw_prices (submission_id, pool_id);
GRANT SELECT, INSERT, UPDATE ON raw_prices TO spotplane_app;

CREATE TABLE clean_prices (
    pool_id       text NOT NULL,
    bucket_at     timestamptz NOT NULL,  -- start of the five minutes
    price_nanousd bigint NOT NULL CHECK (price_nanousd > 0),
    source        text NOT NULL
        CONSTRAINT clean_prices_source_check CHECK (source IN
            ('primary', 'replica-automatic', 'replica-manual', 'interpolated', 'unknown')),
    confidence    real NOT NULL CHECK (confidence BETWEEN 0 AND 1),
    -- When, and with which submission, the price was seen; both decide which of two equals is first.
    observed_at   timestamptz NOT NULL,
    submission_id text NOT NULL,
    -- The writing transaction's number in clean_revision: whoever reads by it skips nothing.
    revision      bigint NOT NULL,
    -- A pool's rows lie far apart in the table, side by side in the index: charts read that alone.
    PRIMARY KEY (pool_id, bucket_at) INCLUDE (price_nanousd)
) PARTITION BY RANGE (bucket_at);
-- For readers of what is new; what was interpolated is no news.
CREATE INDEX clean_prices_news ON clean_prices (revision, pool_id, bucket_at) WHERE source <> 'interpolated';
CREATE INDEX clean_prices_time ON clean_prices USING brin (bucket_at) WITH (pages_per_range = 32);
GRANT SELECT, INSERT, UPDATE ON clean_prices TO spotplane_app;

-- One row, which every writer of clean prices raises first: writers take turns, so that revisions are
-- committed in their order.
CREATE TABLE clean_revision (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    revision  bigint NOT NULL DEFAULT 0
);
INSERT INTO clean_revision DEFAULT VALUES;
GRANT SELECT, UPDATE ON clean_revision TO spotplane_app;

-- On-demand prices over time: a row when a price is first seen or differs from the one before.
CREATE TABLE on_demand_price_history (
    region        text NOT NULL,
    instance_type text NOT NULL,
    observed_at   timestamptz NOT NULL,
    price_nanousd bigint NOT NULL CHECK (price_nanousd > 0),
    PRIMARY KEY (region, instance_type, observed_at)
);
GRANT SELECT, INSERT ON on_demand_price_history TO spotplane_app;
INSERT INTO on_demand_price_history SELECT region, instance_type, observed_at, price_nanousd FROM on_demand_prices;

-- Every report, for the health of an agent's pricing and an instance's log.
CREATE TABLE price_reports (
    tenant_id         uuid NOT NULL,
    agent_id          uuid NOT NULL,
    received_at       timestamptz NOT NULL,
    id                uuid NOT NULL,
    instance_id       text,
    observed_at       timestamptz NOT NULL,
    -- Of the instance's own pool, and of its type.
    spot_nanousd      bigint,
    on_demand_nanousd bigint,
    accepted          int NOT NULL,
    dropped           int NOT NULL,
    PRIMARY KEY (tenant_id, agent_id, received_at, id)
);
CREATE INDEX price_reports_instance ON price_reports (tenant_id, instance_id, received_at DESC);
CREATE INDEX price_reports_time ON price_reports USING brin (received_at) WITH (pages_per_range = 32);
CALL isolate_tenants('price_reports');
GRANT SELECT, INSERT, UPDATE, DELETE ON price_reports TO spotplane_app;

-- What an instance last told of its own prices.
CREATE TABLE instance_prices (
    tenant_id         uuid NOT NULL,
    instance_id       text NOT NULL,
    spot_nanousd      bigint CHECK (spot_nanousd > 0),
    on_demand_nanousd bigint CHECK (on_demand_nanousd > 0),
    observed_at       timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, instance_id)
);
CALL isolate_tenants('instance_prices');
GRANT SELECT, INSERT, UPDATE, DELETE ON instance_prices TO spotplane_app;

CREATE TABLE pool_scores (
    pool_id          text NOT NULL,
    computed_at      timestamptz NOT NULL,
    score            real NOT NULL CHECK (score BETWEEN 0 AND 100),
    class            text NOT NULL CONSTRAINT pool_scores_class_check CHECK (class IN ('safe', 'caution', 'avoid')),
    risk             real NOT NULL CHECK (risk BETWEEN 0 AND 1),
    -- Standard deviation over mean of 24 hours; null with fewer than two prices.
    volatility       real,
    interruptions_30d int NOT NULL,
    PRIMARY KEY (pool_id, computed_at)
);
CREATE INDEX pool_scores_time ON pool_scores (computed_at);
GRANT SELECT, INSERT, DELETE ON pool_scores TO spotplane_app;

-- What models learn from: a row a trusted clean price.
CREATE TABLE price_features (
    pool_id       text NOT NULL,
    bucket_at     timestamptz NOT NULL,
    price_nanousd bigint NOT NULL,
    hour          smallint NOT NULL,  -- UTC, 0 to 23
    weekday       smallint NOT NULL,  -- 0 is Monday
    -- Relative changes against 12 and 288 buckets earlier; null when there was no price.
    change_1h     real,
    change_24h    real,
    -- Standard deviation in US dollars over the last 72 buckets; null with fewer than two prices.
    sigma_6h      real,
    -- 1 is the cheapest pool of the type in the region, in the same bucket.
    price_rank    int NOT NULL,
    PRIMARY KEY (pool_id, bucket_at)
) PARTITION BY RANGE (bucket_at);
GRANT SELECT, INSERT, UPDATE ON price_features TO spotplane_app;

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
CREATE INDEX pipeline_runs_recent ON pipeline_runs (started_at DESC, id);
GRANT SELECT, INSERT, UPDATE, DELETE ON pipeline_runs TO spotplane_app;

-- Choosing by the interruptions of a window over all pools; the index of 0005 leads with the pool.
CREATE INDEX pool_interruptions_time ON pool_interruptions (occurred_at);

-- How long whole months are kept; null is for ever. The database holds it, so that no mistake of a
-- program drops what must stay.
ALTER TABLE partitioned_tables ADD COLUMN kept_for interval;
UPDATE partitioned_tables SET kept_for = '90 days' WHERE name = 'outbox_events';
INSERT INTO partitioned_tables (name, kept_for) VALUES
    ('raw_prices', '90 days'), ('clean_prices', '2 years'), ('price_features', '2 years');
SELECT ensure_partition(parent, starts_at, starts_at + interval '1 month')
  FROM unnest(ARRAY['raw_prices', 'clean_prices', 'price_features']) AS parent,
       generate_series(date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - interval '2 months',
                       date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + interval '3 months',
                       interval '1 month') AS starts_at;
