-- The plain role, and what no feature owns: leases, the epoch of rights, our own secrets,
-- administrators, and the makers of partitions and tenant policies.

-- Servers work under this role, so that row-level security holds for them; a login is made its member.
-- Roles belong to the cluster, so another database may have made it already, even at this moment.
DO $$
BEGIN
    CREATE ROLE spotplane_app NOLOGIN;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

GRANT USAGE ON SCHEMA public TO spotplane_app;
GRANT SELECT ON schema_migrations TO spotplane_app;  -- a server checks before it serves

CREATE TABLE leases (
    name       text PRIMARY KEY,
    holder     text NOT NULL,
    token      bigint NOT NULL,
    expires_at timestamptz NOT NULL
);
GRANT SELECT, INSERT, UPDATE ON leases TO spotplane_app;

-- One row. Raised in every transaction that takes a right away; what a server has in memory about a
-- credential counts only while this has not moved.
CREATE TABLE auth_epoch (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    epoch     bigint NOT NULL
);
INSERT INTO auth_epoch (epoch) VALUES (1);
GRANT SELECT, UPDATE ON auth_epoch TO spotplane_app;

-- Secrets that all servers must share, e.g. the one that signs page tokens.
CREATE TABLE server_secrets (
    name       text PRIMARY KEY,
    value      bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT, INSERT ON server_secrets TO spotplane_app;

CREATE TABLE admin_credentials (
    id             uuid PRIMARY KEY,
    name           text NOT NULL CONSTRAINT admin_credentials_name_key UNIQUE,
    token_hash     bytea NOT NULL CONSTRAINT admin_credentials_token_hash_key UNIQUE,
    scopes         text[] NOT NULL,
    rate_limit_rpm int NOT NULL DEFAULT 600 CHECK (rate_limit_rpm > 0),
    expires_at     timestamptz,
    revoked_at     timestamptz,
    created_at     timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT, INSERT, UPDATE ON admin_credentials TO spotplane_app;

-- Makes one month's partition of one of our own tables. Runs as the owner, because the plain role may
-- not create tables; so it takes nothing but known names.
CREATE FUNCTION ensure_partition(parent text, starts_at timestamptz, ends_at timestamptz)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    child text := parent || '_' || to_char(starts_at AT TIME ZONE 'UTC', 'YYYYMM');
BEGIN
    IF parent NOT IN ('usage_records', 'usage_rollup_hourly', 'audit_logs', 'outbox_events') THEN
        RAISE EXCEPTION 'not a partitioned table of ours: %', parent;
    END IF;
    IF to_regclass(child) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE IF NOT EXISTS %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                   child, parent, starts_at, ends_at);
    RETURN true;
END
$$;
REVOKE ALL ON FUNCTION ensure_partition FROM public;
GRANT EXECUTE ON FUNCTION ensure_partition TO spotplane_app;

-- Puts a table under tenant isolation: a connection sees and writes the rows of the tenant in
-- `spotplane.tenant_id`, all rows when that is '*', and none when it is not set.
CREATE PROCEDURE isolate_tenants(target regclass, tenant_column name DEFAULT 'tenant_id')
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', target);
    -- The sub-select makes it one evaluation a statement instead of one a row.
    EXECUTE format('CREATE POLICY tenant_isolation ON %s TO spotplane_app USING '
                   '((SELECT current_setting(''spotplane.tenant_id'', true)) IN (''*'', %I::text))',
                   target, tenant_column);
END
$$;
