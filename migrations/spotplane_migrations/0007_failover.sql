-- Replicas, and the failovers that promote them.

CREATE TABLE replicas (
    tenant_id             uuid NOT NULL,
    id                    uuid NOT NULL,
    agent_id              uuid NOT NULL,
    -- A placeholder until the launch is reported.
    instance_id           text NOT NULL,
    bound                 boolean NOT NULL DEFAULT false,
    type                  text NOT NULL
        CONSTRAINT replicas_type_check CHECK (type IN ('manual', 'automatic-rebalance', 'automatic-termination')),
    status                text NOT NULL
        CONSTRAINT replicas_status_check CHECK (status IN
            ('launching', 'syncing', 'ready', 'promoted', 'terminated', 'failed')),
    sync_status           text NOT NULL DEFAULT 'initializing'
        CONSTRAINT replicas_sync_status_check CHECK (sync_status IN ('initializing', 'syncing', 'synced', 'out-of-sync')),
    sync_progress         real NOT NULL DEFAULT 0,
    pool_id               text NOT NULL,
    instance_type         text NOT NULL,
    region                text NOT NULL,
    az                    text NOT NULL,
    created_by            text NOT NULL,
    hourly_cost_nanousd   bigint,
    message               text,
    termination_confirmed boolean NOT NULL DEFAULT false,
    created_at            timestamptz NOT NULL,
    launched_at           timestamptz,
    ready_at              timestamptz,
    promoted_at           timestamptz,
    terminated_at         timestamptz,
    updated_at            timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    -- A placeholder is never promoted.
    CONSTRAINT replicas_promoted_is_bound CHECK (status <> 'promoted' OR bound),
    FOREIGN KEY (tenant_id, agent_id) REFERENCES agents (tenant_id, id)
);
-- Whoever asks, and however often at once: one live replica an agent.
CREATE UNIQUE INDEX replicas_one_live ON replicas (tenant_id, agent_id)
    WHERE status IN ('launching', 'syncing', 'ready');
CREATE INDEX replicas_recent ON replicas (tenant_id, agent_id, created_at DESC, id);
CREATE UNIQUE INDEX replicas_instance_key ON replicas (tenant_id, instance_id);
-- Ended, but the cloud has not said so yet: to be ordered again.
CREATE INDEX replicas_unconfirmed ON replicas (terminated_at)
    WHERE status = 'terminated' AND bound AND NOT termination_confirmed;
CALL isolate_tenants('replicas');
GRANT SELECT, INSERT, UPDATE ON replicas TO spotplane_app;

CREATE TABLE failovers (
    tenant_id       uuid NOT NULL,
    id              uuid NOT NULL,
    agent_id        uuid NOT NULL,
    instance_id     text NOT NULL,
    pool_id         text,
    kind            text NOT NULL
        CONSTRAINT failovers_kind_check CHECK (kind IN ('rebalance', 'termination', 'silence', 'drain')),
    status          text NOT NULL
        CONSTRAINT failovers_status_check CHECK (status IN ('detected', 'handling', 'resolved', 'failed', 'ignored')),
    action          text NOT NULL DEFAULT 'none'
        CONSTRAINT failovers_action_check CHECK (action IN
            ('none', 'promoted_replica', 'created_replica', 'queued_ondemand_switch')),
    replica_id      uuid,
    new_instance_id text,
    message         text,
    detected_at     timestamptz NOT NULL,
    deadline        timestamptz,
    promoted_at     timestamptz,
    resolved_at     timestamptz,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, agent_id) REFERENCES agents (tenant_id, id)
);
-- Signals about one instance join one open failover.
CREATE UNIQUE INDEX failovers_one_open ON failovers (tenant_id, instance_id) WHERE status IN ('detected', 'handling');
CREATE INDEX failovers_open ON failovers (detected_at) WHERE status IN ('detected', 'handling');
CREATE INDEX failovers_recent ON failovers (tenant_id, agent_id, detected_at DESC, id);
CALL isolate_tenants('failovers');
GRANT SELECT, INSERT, UPDATE ON failovers TO spotplane_app;

CREATE TABLE failover_steps (
    tenant_id   uuid NOT NULL,
    failover_id uuid NOT NULL,
    seq         bigint GENERATED ALWAYS AS IDENTITY,
    kind        text NOT NULL,
    occurred_at timestamptz NOT NULL,
    detail      text,
    PRIMARY KEY (tenant_id, failover_id, seq),
    FOREIGN KEY (tenant_id, failover_id) REFERENCES failovers (tenant_id, id)
);
CALL isolate_tenants('failover_steps');
GRANT SELECT, INSERT ON failover_steps TO spotplane_app;
