-- Callers who repeat themselves, browsers that can send no headers, and tokens that an operator may
-- read again.

-- One row for each idempotency key in use, kept for 24 h. Administrators belong to no tenant; theirs
-- have the nil UUID.
CREATE TABLE idempotency_keys (
    tenant_id     uuid NOT NULL,
    -- SHA-256 of credential, method, path and key.
    scope         bytea NOT NULL,
    request_hash  bytea NOT NULL,
    -- The run that holds the key while there is no answer. A server that dies leaves it behind, so
    -- the claim lapses.
    attempt       uuid NOT NULL,
    claimed_until timestamptz NOT NULL,
    -- The first final answer, encrypted under the caller's credential: it may hold a fresh token.
    answer        bytea,
    created_at    timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, scope)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);
CALL isolate_tenants('idempotency_keys');
GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency_keys TO spotplane_app;

-- Credentials for one use of one path.
CREATE TABLE tickets (
    tenant_id       uuid NOT NULL,
    id              uuid NOT NULL,
    kind            text NOT NULL
        CONSTRAINT tickets_kind_check CHECK (kind IN ('admin', 'tenant', 'agent')),
    -- Of the credential that the ticket stands for.
    credential_hash bytea NOT NULL,
    path            text NOT NULL,
    expires_at      timestamptz NOT NULL,
    used_at         timestamptz,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX tickets_age ON tickets (expires_at);
CALL isolate_tenants('tickets');
GRANT SELECT, INSERT, UPDATE, DELETE ON tickets TO spotplane_app;

-- The key that agents and dashboards of the field share is one of its tenant's keys; its last
-- characters are of the checksum and say which one it is.
ALTER TABLE api_keys ADD COLUMN is_client_token boolean NOT NULL DEFAULT false,
                     ADD COLUMN key_suffix text;
CREATE INDEX api_keys_client_token ON api_keys (tenant_id, created_at DESC) WHERE is_client_token;

-- Copies of client tokens, AES-256-GCM under a key that is not in the database.
CREATE TABLE token_escrow (
    tenant_id  uuid NOT NULL,
    key_id     uuid NOT NULL,
    sealed     bytea NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, key_id),
    FOREIGN KEY (tenant_id, key_id) REFERENCES api_keys (tenant_id, id)
);
CALL isolate_tenants('token_escrow');
GRANT SELECT, INSERT, DELETE ON token_escrow TO spotplane_app;

-- A tenant that is deleted takes its fleet with it, in the same transaction and whoever deletes it.
-- Its credentials are dead then, so nobody is left who could confirm an end. Usage, audit, switches
-- and savings stay.
CREATE FUNCTION end_fleet_of_tenant() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    at timestamptz := NEW.deleted_at;
BEGIN
    WITH gone AS (
        UPDATE agent_commands
           SET status = 'cancelled', done_at = at, leased_until = NULL
         WHERE tenant_id = NEW.id AND status IN ('pending', 'leased', 'executing')
        RETURNING id)
    INSERT INTO agent_command_events (tenant_id, command_id, kind, occurred_at, detail)
    SELECT NEW.id, id, 'cancelled', at, 'the tenant was deleted' FROM gone;
    UPDATE failovers
       SET status = 'resolved', resolved_at = at, message = 'the tenant was deleted'
     WHERE tenant_id = NEW.id AND status IN ('detected', 'handling');
    UPDATE replicas
       SET status = CASE WHEN status IN ('launching', 'syncing', 'ready') THEN 'terminated' ELSE status END,
           terminated_at = coalesce(terminated_at, at), updated_at = at,
           termination_confirmed = true, termination_confirmed_at = coalesce(termination_confirmed_at, at)
     WHERE tenant_id = NEW.id AND status <> 'promoted' AND NOT termination_confirmed;
    UPDATE instances
       SET status = 'terminated', terminated_at = at, updated_at = greatest(updated_at, at)
     WHERE tenant_id = NEW.id AND status <> 'terminated';
    UPDATE agents
       SET status = 'deleted', deleted_at = at, deleted_reason = 'deleted', updated_at = at,
           token_hash = NULL, enabled = false, auto_switch_enabled = false,
           manual_replica_enabled = false, replica_enabled = false, generation = generation + 1
     WHERE tenant_id = NEW.id AND deleted_at IS NULL;
    DELETE FROM notifications WHERE tenant_id = NEW.id;
    DELETE FROM pricing_alerts WHERE tenant_id = NEW.id;
    DELETE FROM tickets WHERE tenant_id = NEW.id;
    DELETE FROM token_escrow WHERE tenant_id = NEW.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER tenants_deleted AFTER UPDATE OF status ON tenants
    FOR EACH ROW WHEN (NEW.status = 'deleted' AND OLD.status <> 'deleted')
    EXECUTE FUNCTION end_fleet_of_tenant();
