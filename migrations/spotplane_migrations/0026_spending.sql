-- Spend budgets: what a tenant or one of its keys may use in a period, what was told of it, and whom it stops.

CREATE TABLE spend_budgets (
    tenant_id            uuid NOT NULL REFERENCES tenants (id),
    id                   uuid NOT NULL,
    -- The key that it covers, with whatever that is rotated to; null for all of the tenant's usage.
    api_key_id           uuid,
    name                 text NOT NULL,
    period               text NOT NULL
        CONSTRAINT spend_budgets_period_check CHECK (period IN ('day', 'week', 'month', 'total')),
    limit_nanos          bigint NOT NULL CHECK (limit_nanos > 0),
    alert_thresholds_pct int[] NOT NULL,
    hard_stop            boolean NOT NULL,
    created_at           timestamptz NOT NULL,
    updated_at           timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, api_key_id) REFERENCES api_keys (tenant_id, id)
);
CREATE INDEX spend_budgets_recent ON spend_budgets (tenant_id, created_at DESC, id);
CREATE INDEX spend_budgets_api_key ON spend_budgets (tenant_id, api_key_id);
CALL isolate_tenants('spend_budgets');
GRANT SELECT, INSERT, UPDATE, DELETE ON spend_budgets TO spotplane_app;

-- The keys that a budget of a key covers: a key is rotated without getting away from its budget.
CREATE TABLE spend_budget_keys (
    tenant_id  uuid NOT NULL,
    budget_id  uuid NOT NULL,
    api_key_id uuid NOT NULL,
    PRIMARY KEY (tenant_id, budget_id, api_key_id),
    FOREIGN KEY (tenant_id, budget_id) REFERENCES spend_budgets (tenant_id, id) ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, api_key_id) REFERENCES api_keys (tenant_id, id)
);
CREATE INDEX spend_budget_keys_key ON spend_budget_keys (tenant_id, api_key_id);
CALL isolate_tenants('spend_budget_keys');
GRANT SELECT, INSERT, DELETE ON spend_budget_keys TO spotplane_app;

CREATE FUNCTION cover_successor() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO spend_budget_keys (tenant_id, budget_id, api_key_id)
    SELECT tenant_id, budget_id, NEW.id
      FROM spend_budget_keys
     WHERE tenant_id = NEW.tenant_id AND api_key_id = NEW.rotated_from
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
CREATE TRIGGER api_keys_cover_successor AFTER INSERT ON api_keys
    FOR EACH ROW WHEN (NEW.rotated_from IS NOT NULL) EXECUTE FUNCTION cover_successor();

-- What was told: a share of the limit once a period, however often and by whom it is noticed.
CREATE TABLE spend_budget_crossings (
    tenant_id     uuid NOT NULL,
    budget_id     uuid NOT NULL,
    period_start  timestamptz NOT NULL,
    threshold_pct int NOT NULL,
    limit_nanos   bigint NOT NULL,
    spent_nanos   bigint NOT NULL,
    crossed_at    timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, budget_id, period_start, threshold_pct),
    FOREIGN KEY (tenant_id, budget_id) REFERENCES spend_budgets (tenant_id, id) ON DELETE CASCADE
);
CREATE INDEX spend_budget_crossings_old ON spend_budget_crossings (crossed_at);
CALL isolate_tenants('spend_budget_crossings');
GRANT SELECT, INSERT, DELETE ON spend_budget_crossings TO spotplane_app;

-- Whom a budget stops, read with every key that is looked up. Lapses by itself at `until`, null for never; every
-- insert and delete raises `auth_epoch` in its transaction.
CREATE TABLE spend_stops (
    tenant_id    uuid NOT NULL,
    budget_id    uuid NOT NULL,
    -- Whether only the budget's keys are stopped, and not all of the tenant's.
    by_key       boolean NOT NULL,
    period_start timestamptz NOT NULL,
    until        timestamptz,
    stopped_at   timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, budget_id),
    FOREIGN KEY (tenant_id, budget_id) REFERENCES spend_budgets (tenant_id, id) ON DELETE CASCADE
);
CALL isolate_tenants('spend_stops');
GRANT SELECT, INSERT, DELETE ON spend_stops TO spotplane_app;
