-- Agents, the instances they live on, the sessions those hold, and the ledger of commands.

CREATE TABLE agents (
    tenant_id               uuid NOT NULL REFERENCES tenants (id),
    id                      uuid NOT NULL,
    logical_agent_id        text NOT NULL,
    hostname                text,
    agent_version           text,
    status                  text NOT NULL
        CONSTRAINT agents_status_check CHECK (status IN ('online', 'offline', 'disabled', 'switching', 'error', 'deleted')),
    token_hash              bytea CONSTRAINT agents_token_hash_key UNIQUE,
    enabled                 boolean NOT NULL DEFAULT true,
    auto_switch_enabled     boolean NOT NULL DEFAULT true,
    auto_terminate_enabled  boolean NOT NULL DEFAULT true,
    terminate_wait_seconds  int NOT NULL DEFAULT 300 CHECK (terminate_wait_seconds BETWEEN 0 AND 86400),
    replica_enabled         boolean NOT NULL DEFAULT false,
    replica_count           int NOT NULL DEFAULT 0,
    manual_replica_enabled  boolean NOT NULL DEFAULT false,
    min_savings_percent     numeric(5, 2) NOT NULL DEFAULT 15 CHECK (min_savings_percent BETWEEN 0 AND 100),
    risk_threshold          numeric(4, 3) NOT NULL DEFAULT 0.3 CHECK (risk_threshold BETWEEN 0 AND 1),
    max_switches_per_week   int NOT NULL DEFAULT 10,
    max_switches_per_day    int NOT NULL DEFAULT 3,
    min_pool_duration_hours int NOT NULL DEFAULT 2,
    config_version          bigint NOT NULL DEFAULT 1,
    -- Rises with every change of configuration or of any instance's role.
    generation              bigint NOT NULL DEFAULT 1,
    -- After a switch or promotion the new instance gets this long to start before silence counts.
    grace_until             timestamptz,
    created_at              timestamptz NOT NULL,
    updated_at              timestamptz NOT NULL,
    deleted_at              timestamptz,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT agents_mode_check CHECK (NOT (auto_switch_enabled AND manual_replica_enabled))
);
CREATE INDEX agents_id ON agents (id);
CREATE UNIQUE INDEX agents_logical_id_key ON agents (tenant_id, logical_agent_id) WHERE deleted_at IS NULL;
CREATE INDEX agents_recent ON agents (tenant_id, created_at DESC, id);
CALL isolate_tenants('agents');
GRANT SELECT, INSERT, UPDATE ON agents TO spotplane_app;

CREATE TABLE instances (
    tenant_id         uuid NOT NULL,
    id                text NOT NULL,  -- the cloud's
    agent_id          uuid NOT NULL,
    status            text NOT NULL
        CONSTRAINT instances_status_check CHECK (status IN
            ('launching', 'running_primary', 'running_replica', 'promoting', 'zombie', 'terminating', 'terminated')),
    instance_type     text NOT NULL,
    region            text NOT NULL,
    az                text NOT NULL,
    mode              text NOT NULL
        CONSTRAINT instances_mode_check CHECK (mode IN ('spot', 'ondemand', 'unknown')),
    pool_id           text,
    region_id         uuid REFERENCES regions (id),
    instance_type_id  int REFERENCES instance_types (id),
    hostname          text,
    image_id          text,
    private_ip        text,
    public_ip         text,
    -- Somebody agreed that this zombie may be terminated.
    terminate_consent boolean NOT NULL DEFAULT false,
    launched_at       timestamptz NOT NULL,
    active_at         timestamptz,
    terminated_at     timestamptz,
    updated_at        timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, agent_id) REFERENCES agents (tenant_id, id)
);
-- The rule that everything rests on: at most one primary an agent.
CREATE UNIQUE INDEX instances_one_primary ON instances (tenant_id, agent_id) WHERE status = 'running_primary';
CREATE INDEX instances_agent ON instances (tenant_id, agent_id, status);
CREATE INDEX instances_region ON instances (region_id, status);
CREATE INDEX instances_type ON instances (instance_type_id, status);
CALL isolate_tenants('instances');
GRANT SELECT, INSERT, UPDATE ON instances TO spotplane_app;

-- One row an instance, rewritten by every heartbeat flush: narrow, and with room in its pages and no
-- index on what changes, so that the writes stay within the page.
CREATE TABLE agent_sessions (
    tenant_id          uuid NOT NULL,
    instance_id        text NOT NULL,
    agent_id           uuid NOT NULL,
    epoch              bigint NOT NULL,
    session_id         uuid NOT NULL,
    server_id          text NOT NULL,
    connected_at       timestamptz NOT NULL,
    last_heartbeat_at  timestamptz NOT NULL,
    -- Its stream ended; says nothing about health.
    disconnected_at    timestamptz,
    -- It left on purpose; its silence is no loss.
    goodbye_at         timestamptz,
    applied_generation bigint NOT NULL DEFAULT 0,
    cpu_percent        real,
    memory_percent     real,
    PRIMARY KEY (tenant_id, instance_id),
    FOREIGN KEY (tenant_id, instance_id) REFERENCES instances (tenant_id, id)
) WITH (fillfactor = 60);
CREATE INDEX agent_sessions_agent ON agent_sessions (tenant_id, agent_id);
CALL isolate_tenants('agent_sessions');
GRANT SELECT, INSERT, UPDATE ON agent_sessions TO spotplane_app;

-- One row: whether any server takes heartbeats down, and since when without a gap. While none did,
-- nobody's silence means anything. `seen_at` is PostgreSQL's time, the other the plane's.
CREATE TABLE heartbeat_collection (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    since     timestamptz NOT NULL DEFAULT '-infinity',
    seen_at   timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO heartbeat_collection DEFAULT VALUES;
GRANT SELECT, UPDATE ON heartbeat_collection TO spotplane_app;

CREATE TABLE agent_commands (
    tenant_id      uuid NOT NULL,
    id             uuid NOT NULL,
    agent_id       uuid NOT NULL,
    instance_id    text NOT NULL,
    request_id     text NOT NULL,
    type           text NOT NULL
        CONSTRAINT agent_commands_type_check CHECK (type IN
            ('switch', 'create_replica', 'terminate_replica', 'promote_replica', 'terminate', 'update_config', 'custom')),
    name           text NOT NULL,
    parameters     jsonb NOT NULL,
    priority       int NOT NULL CHECK (priority BETWEEN 1 AND 100),
    trigger        text NOT NULL
        CONSTRAINT agent_commands_trigger_check CHECK (trigger IN ('MANUAL', 'AUTOMATIC', 'EMERGENCY')),
    created_by     text NOT NULL,
    status         text NOT NULL DEFAULT 'pending'
        CONSTRAINT agent_commands_status_check CHECK (status IN
            ('pending', 'leased', 'executing', 'completed', 'failed', 'cancelled', 'expired')),
    delivery_count int NOT NULL DEFAULT 0,
    -- Session that holds the lease; a session that ends gives its leases back.
    session_id     uuid,
    leased_until   timestamptz,
    success        boolean,
    message        text,
    result         jsonb,
    created_at     timestamptz NOT NULL,
    leased_at      timestamptz,
    received_at    timestamptz,
    started_at     timestamptz,
    done_at        timestamptz,
    expires_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT agent_commands_request_key UNIQUE (tenant_id, agent_id, request_id),
    FOREIGN KEY (tenant_id, agent_id) REFERENCES agents (tenant_id, id)
);
CREATE INDEX agent_commands_open ON agent_commands (tenant_id, instance_id, priority DESC, created_at)
    WHERE status IN ('pending', 'leased', 'executing');
CREATE INDEX agent_commands_due ON agent_commands (expires_at) WHERE status IN ('pending', 'leased', 'executing');
CREATE INDEX agent_commands_recent ON agent_commands (tenant_id, agent_id, created_at DESC, id);
-- At most one open switch an agent.
CREATE UNIQUE INDEX agent_commands_one_switch ON agent_commands (tenant_id, agent_id)
    WHERE type = 'switch' AND status IN ('pending', 'leased', 'executing');
CALL isolate_tenants('agent_commands');
GRANT SELECT, INSERT, UPDATE ON agent_commands TO spotplane_app;

CREATE TABLE agent_command_events (
    tenant_id   uuid NOT NULL,
    command_id  uuid NOT NULL,
    seq         bigint GENERATED ALWAYS AS IDENTITY,
    kind        text NOT NULL,
    occurred_at timestamptz NOT NULL,
    detail      text,
    PRIMARY KEY (tenant_id, command_id, seq),
    FOREIGN KEY (tenant_id, command_id) REFERENCES agent_commands (tenant_id, id)
);
CALL isolate_tenants('agent_command_events');
GRANT SELECT, INSERT ON agent_command_events TO spotplane_app;
