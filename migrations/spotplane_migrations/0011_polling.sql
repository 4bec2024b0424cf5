-- Agents that poll: the same agents, sessions and commands by another transport.

ALTER TABLE agents
    ADD COLUMN cloud_account text,
    ADD COLUMN project_id    text,
    -- When its primary last registered: a program that has just started has not yet polled all it will.
    ADD COLUMN registered_at timestamptz,
    -- When it last asked for its replicas. Such an agent learns of replicas there, and by no command.
    ADD COLUMN replicas_polled_at timestamptz,
    -- Who took its place, of an agent that was deleted because its instance now serves as another one.
    ADD COLUMN superseded_by uuid,
    ADD COLUMN deleted_reason text
        CONSTRAINT agents_deleted_reason_check CHECK (deleted_reason IN ('deleted', 'superseded', 'uninstalled')),
    -- Whether, a day after the deletion, what it left running has been told of.
    ADD COLUMN leftovers_told_at timestamptz;
CREATE INDEX agents_leftovers ON agents (deleted_at) WHERE deleted_at IS NOT NULL AND leftovers_told_at IS NULL;

-- Prices when it was first seen: on demand for its type and region, and of its pool.
ALTER TABLE instances
    ADD COLUMN baseline_price_nanousd   bigint CHECK (baseline_price_nanousd > 0),
    ADD COLUMN first_spot_price_nanousd bigint CHECK (first_spot_price_nanousd > 0);

-- Sign of life by stream alone: an agent that holds a stream gets no commands by polling. The other
-- sign, `last_heartbeat_at`, counts whatever way it came.
ALTER TABLE agent_sessions ADD COLUMN streamed_at timestamptz NOT NULL DEFAULT '-infinity';
UPDATE agent_sessions SET streamed_at = last_heartbeat_at WHERE epoch > 0;

ALTER TABLE agent_commands
    -- How it was delivered: by stream, or in which dialect of the polling routes. Null before.
    ADD COLUMN dialect text
        CONSTRAINT agent_commands_dialect_check CHECK (dialect IN ('stream', 'loop', 'action')),
    -- Not delivered before; a later step of something that takes its time.
    ADD COLUMN not_before timestamptz;
CREATE INDEX agent_commands_done ON agent_commands (done_at);
-- A week later a finished command is forgotten, and its story with it.
GRANT DELETE ON agent_commands TO spotplane_app;
ALTER TABLE agent_command_events DROP CONSTRAINT agent_command_events_tenant_id_command_id_fkey;
ALTER TABLE agent_command_events ADD CONSTRAINT agent_command_events_command_fkey
    FOREIGN KEY (tenant_id, command_id) REFERENCES agent_commands (tenant_id, id) ON DELETE CASCADE;

-- What a tenant's fleet starts with and how large it may get; null is the product's default, and no
-- limit. A tenant without a row has all defaults.
CREATE TABLE fleet_settings (
    tenant_id               uuid PRIMARY KEY REFERENCES tenants (id),
    max_agents              int CHECK (max_agents >= 0),
    max_instances           int CHECK (max_instances >= 0),
    auto_switch_enabled     boolean,
    auto_terminate_enabled  boolean,
    terminate_wait_seconds  int CHECK (terminate_wait_seconds BETWEEN 0 AND 86400),
    min_savings_percent     numeric(5, 2) CHECK (min_savings_percent BETWEEN 0 AND 100),
    risk_threshold          numeric(4, 3) CHECK (risk_threshold BETWEEN 0 AND 1),
    max_switches_per_week   int CHECK (max_switches_per_week >= 0),
    max_switches_per_day    int CHECK (max_switches_per_day >= 0),
    min_pool_duration_hours int CHECK (min_pool_duration_hours >= 0),
    updated_at              timestamptz NOT NULL
);
CALL isolate_tenants('fleet_settings');
GRANT SELECT, INSERT, UPDATE ON fleet_settings TO spotplane_app;
