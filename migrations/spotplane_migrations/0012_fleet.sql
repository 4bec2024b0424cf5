-- How instances end, what agents cleaned up, and what an instance's log is read from.

ALTER TABLE instances
    -- Since when it serves nobody: the start of every wait for its end.
    ADD COLUMN retired_at   timestamptz,
    -- Only a word about itself may end it: two processes may share an agent's name, or its switch
    -- was told to let it live.
    ADD COLUMN spared       boolean NOT NULL DEFAULT false,
    -- When its agent was last told to end it, or said that it could not.
    ADD COLUMN end_asked_at timestamptz;

UPDATE instances SET retired_at = updated_at WHERE status IN ('zombie', 'terminating');

-- Whoever retires an instance, its wait begins then, and once.
CREATE FUNCTION note_retirement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status IN ('zombie', 'terminating') THEN
        NEW.retired_at := coalesce(NEW.retired_at, NEW.updated_at);
    ELSIF NEW.status <> 'terminated' THEN
        NEW.retired_at := NULL;
        NEW.spared := false;
        NEW.terminate_consent := false;
        NEW.end_asked_at := NULL;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER instances_retired BEFORE INSERT OR UPDATE OF status ON instances
    FOR EACH ROW EXECUTE FUNCTION note_retirement();

-- Lists show the primary first, then the newest.
CREATE INDEX instances_listed
    ON instances (tenant_id, (status = 'running_primary') DESC, launched_at DESC, id DESC);
CREATE INDEX instances_newest ON instances (launched_at DESC, id DESC);
CREATE INDEX instances_zombies ON instances (tenant_id, retired_at)
    WHERE status IN ('zombie', 'terminating');

-- An agent may come back to an instance that it left (a promotion that keeps the former primary as
-- replica), so a pair may recur; writers hold the agent's row. A switch that failed may still come
-- true under the same command.
DROP INDEX switches_pair_key;
CREATE INDEX switches_pair ON switches (tenant_id, agent_id, old_instance_id, new_instance_id, created_at DESC);
DROP INDEX switches_command_key;
CREATE UNIQUE INDEX switches_command_key ON switches (tenant_id, command_id) WHERE command_id IS NOT NULL AND success;
CREATE INDEX switches_commands ON switches (tenant_id, command_id) WHERE command_id IS NOT NULL;
CREATE INDEX switches_new_instance ON switches (tenant_id, new_instance_id, created_at DESC);
CREATE INDEX switches_old_instance ON switches (tenant_id, old_instance_id, created_at DESC);
-- Emergencies whose new primary has not come alive yet.
CREATE INDEX switches_unsettled ON switches (created_at)
    WHERE trigger = 'EMERGENCY' AND success AND NOT reported AND ready_at IS NULL;

-- The log of an instance is what happened to it. A column, because row-level security keeps the
-- planner from looking an expression up in an index before it has checked whose the row is.
ALTER TABLE outbox_events ADD COLUMN instance_id text GENERATED ALWAYS AS (data ->> 'instance_id') STORED;
CREATE INDEX outbox_events_instance ON outbox_events (tenant_id, instance_id, occurred_at DESC)
    WHERE instance_id IS NOT NULL;

-- What agents removed of their images and snapshots, as they told it.
CREATE TABLE cleanup_reports (
    tenant_id         uuid NOT NULL,
    id                uuid NOT NULL,
    agent_id          uuid NOT NULL,
    reported_at       timestamptz NOT NULL,
    deleted_snapshots int NOT NULL CHECK (deleted_snapshots >= 0),
    deleted_images    int NOT NULL CHECK (deleted_images >= 0),
    failed            int NOT NULL CHECK (failed >= 0),
    -- Ids, cut-off dates and errors, as told.
    details           jsonb NOT NULL,
    created_at        timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, agent_id) REFERENCES agents (tenant_id, id)
);
-- An agent that repeats a report has cleaned up once.
CREATE UNIQUE INDEX cleanup_reports_once ON cleanup_reports (tenant_id, agent_id, reported_at);
CREATE INDEX cleanup_reports_old ON cleanup_reports (created_at);
CALL isolate_tenants('cleanup_reports');
GRANT SELECT, INSERT, DELETE ON cleanup_reports TO spotplane_app;
