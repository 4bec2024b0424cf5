-- Machines that are to be launched or ended for nodes, as work that a provisioner leases; and what nodes' logs say.
-- Read by the operator only, so neither table says whose its node is.

CREATE TABLE node_operations (
    id           uuid PRIMARY KEY,  -- of a launch: the job's id, and the client token towards the cloud
    node_id      uuid NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    kind         text NOT NULL
        CONSTRAINT node_operations_kind_check CHECK (kind IN ('launch', 'terminate')),
    status       text NOT NULL DEFAULT 'queued'
        CONSTRAINT node_operations_status_check CHECK (status IN
            ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    provider     text NOT NULL,
    -- The launch that made the machine: itself, or what a termination undoes.
    launch_id    uuid NOT NULL REFERENCES node_operations (id) ON DELETE CASCADE,
    -- What to launch, and how the node is called.
    spec         jsonb NOT NULL,
    -- The cloud's id of the machine, once known.
    machine_id   text,
    stage        text NOT NULL
        CONSTRAINT node_operations_stage_check CHECK (stage IN
            ('queued', 'provisioning', 'instance_ready', 'installing', 'model_loading', 'health_check', 'active',
             'failed')),
    progress     int NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 100),
    -- Stages gone through: [{"stage", "progress", "started_at"}].
    stages       jsonb NOT NULL,
    -- Leases given, also the token that fences former holders.
    attempt      int NOT NULL DEFAULT 0,
    failures     int NOT NULL DEFAULT 0,
    holder       text,
    leased_until timestamptz,
    -- Not to be leased before.
    available_at timestamptz NOT NULL,
    deadline_at  timestamptz NOT NULL,
    error        text,
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    finished_at  timestamptz
);
-- At most one open operation of a kind for a node.
CREATE UNIQUE INDEX node_operations_one_open ON node_operations (node_id, kind) WHERE status IN ('queued', 'running');
CREATE INDEX node_operations_due ON node_operations (available_at) WHERE status IN ('queued', 'running');
CREATE INDEX node_operations_node ON node_operations (node_id, created_at DESC);
CREATE INDEX node_operations_launch ON node_operations (launch_id);
GRANT SELECT, INSERT, UPDATE ON node_operations TO spotplane_app;

CREATE TABLE node_logs (
    node_id   uuid NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    id        bigint GENERATED ALWAYS AS IDENTITY,
    logged_at timestamptz NOT NULL,
    level     text NOT NULL
        CONSTRAINT node_logs_level_check CHECK (level IN ('debug', 'info', 'warning', 'error')),
    message   text NOT NULL,
    -- Of the launch, where the line is about it.
    phase     text,
    progress  int,
    PRIMARY KEY (node_id, id)
);
CREATE INDEX node_logs_old ON node_logs (logged_at);
GRANT SELECT, INSERT, DELETE ON node_logs TO spotplane_app;

-- Whose silence is to be looked at.
CREATE INDEX nodes_status ON nodes (status);
