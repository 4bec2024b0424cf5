-- The deletion of a tenant waits for every transaction that holds one of its agents, before it looks
-- for what the agents have. An instance that such a transaction adds would otherwise be committed
-- after the search, and run on, with its cost, in a tenant that is deleted.
--
-- Transactions that create an agent hold the tenant's row instead (`claims.hold_tenant`).
CREATE OR REPLACE FUNCTION end_fleet_of_tenant() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    at timestamptz := NEW.deleted_at;
BEGIN
    -- In the order of their ids: two such waits cannot deadlock.
    PERFORM FROM agents WHERE tenant_id = NEW.id AND deleted_at IS NULL ORDER BY id FOR UPDATE;
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
