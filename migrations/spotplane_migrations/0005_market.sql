-- Spot pools and their newest prices. Prices belong to no tenant: whoever sees one helps all.

CREATE TABLE pools (
    id                text PRIMARY KEY,  -- <instance_type>.<az>
    instance_type     text NOT NULL,
    region            text NOT NULL,
    az                text NOT NULL,
    price_nanousd     bigint CHECK (price_nanousd > 0),
    price_observed_at timestamptz,
    created_at        timestamptz NOT NULL
);
CREATE INDEX pools_choice ON pools (region, instance_type);
GRANT SELECT, INSERT, UPDATE ON pools TO spotplane_app;

CREATE TABLE on_demand_prices (
    region        text NOT NULL,
    instance_type text NOT NULL,
    price_nanousd bigint NOT NULL CHECK (price_nanousd > 0),
    observed_at   timestamptz NOT NULL,
    PRIMARY KEY (region, instance_type)
);
GRANT SELECT, INSERT, UPDATE ON on_demand_prices TO spotplane_app;

-- Counted over all tenants, never attributed to one; one row an instance, whatever the cloud repeats.
CREATE TABLE pool_interruptions (
    pool_id     text NOT NULL,
    instance_id text NOT NULL,
    occurred_at timestamptz NOT NULL,
    PRIMARY KEY (pool_id, instance_id)
);
CREATE INDEX pool_interruptions_recent ON pool_interruptions (pool_id, occurred_at);
GRANT SELECT, INSERT ON pool_interruptions TO spotplane_app;
