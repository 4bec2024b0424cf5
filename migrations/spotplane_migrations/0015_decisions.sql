-- Decisions with what explains them, and the engines that were uploaded to make them.

-- A row when a decision or one of its gates changes, and at least every five minutes.
CREATE TABLE decisions (
    tenant_id        uuid NOT NULL,
    decided_at       timestamptz NOT NULL,
    id               uuid NOT NULL,
    agent_id         uuid NOT NULL,
    instance_id      text,
    -- Who asked: the loop, or an agent.
    cause            text NOT NULL
        CONSTRAINT decisions_cause_check CHECK (cause IN ('loop', 'request')),
    engine           text NOT NULL,
    engine_version   text NOT NULL,
    session_id       uuid,
    -- The built-in rules answered, since the live engine had failed.
    active_fallback  boolean NOT NULL,
    action           text NOT NULL
        CONSTRAINT decisions_action_check CHECK (action IN ('stay', 'switch', 'emergency')),
    current_mode     text NOT NULL,
    current_pool_id  text,
    target_mode      text NOT NULL,
    target_pool_id   text,
    standby          text,
    reason_class     text,
    reasoning        text NOT NULL,
    confidence       double precision NOT NULL,
    risk_score       double precision NOT NULL,
    -- Dollars an hour: an engine weighs them, nothing is accounted by them.
    expected_savings double precision NOT NULL,
    -- The snapshot without what prices and interruptions of that instant tell again.
    inputs           jsonb NOT NULL,
    scores           jsonb NOT NULL,
    gates            jsonb NOT NULL,
    outcome          text NOT NULL
        CONSTRAINT decisions_outcome_check CHECK (outcome IN ('executed', 'blocked', 'stay')),
    command_id       uuid,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX decisions_agent ON decisions (tenant_id, agent_id, decided_at DESC, id);
CREATE INDEX decisions_time ON decisions (decided_at);
CALL isolate_tenants('decisions');
GRANT SELECT, INSERT, DELETE ON decisions TO spotplane_app;

-- Where each agent's decisions stand: what was stored last, and what its engine remembers. Rewritten
-- often, so it is narrow and has room in its pages.
CREATE TABLE decision_heads (
    tenant_id uuid NOT NULL,
    agent_id  uuid NOT NULL,
    -- Decision and gates that were stored last.
    signature text NOT NULL,
    stored_at timestamptz NOT NULL,
    engine    text NOT NULL,
    memory    jsonb NOT NULL,
    PRIMARY KEY (tenant_id, agent_id),
    FOREIGN KEY (tenant_id, agent_id) REFERENCES agents (tenant_id, id)
) WITH (fillfactor = 70);
CALL isolate_tenants('decision_heads');
GRANT SELECT, INSERT, UPDATE ON decision_heads TO spotplane_app;

-- Uploaded engines belong to the platform, not to a tenant. Equal content is kept once.
CREATE TABLE engine_files (
    sha256     bytea PRIMARY KEY CHECK (length(sha256) = 32),
    size_bytes bigint NOT NULL,
    created_at timestamptz NOT NULL
);
GRANT SELECT, INSERT, DELETE ON engine_files TO spotplane_app;

CREATE TABLE engine_file_chunks (
    sha256 bytea NOT NULL REFERENCES engine_files (sha256) ON DELETE CASCADE,
    seq    int NOT NULL,
    data   bytea NOT NULL,
    PRIMARY KEY (sha256, seq)
);
-- Models are compressed already as far as they can be.
ALTER TABLE engine_file_chunks ALTER COLUMN data SET STORAGE EXTERNAL;
GRANT SELECT, INSERT ON engine_file_chunks TO spotplane_app;

CREATE TABLE engine_sessions (
    id           uuid PRIMARY KEY,
    kind         text NOT NULL
        CONSTRAINT engine_sessions_kind_check CHECK (kind IN ('engine', 'model')),
    status       text NOT NULL
        CONSTRAINT engine_sessions_status_check CHECK (status IN ('uploaded', 'active', 'archived')),
    role         text
        CONSTRAINT engine_sessions_role_check CHECK (role IN ('live', 'fallback')),
    name         text NOT NULL,
    version      text NOT NULL,
    model_type   text,
    created_by   text NOT NULL,
    created_at   timestamptz NOT NULL,
    activated_at timestamptz,
    archived_at  timestamptz,
    shadow       jsonb,
    -- Why it was rolled back.
    fault        text,
    CONSTRAINT engine_sessions_active_has_role CHECK ((status = 'active') = (role IS NOT NULL))
);
-- One decides, and one would if that were undone.
CREATE UNIQUE INDEX engine_sessions_one_role ON engine_sessions (role) WHERE role IS NOT NULL;
CREATE INDEX engine_sessions_recent ON engine_sessions (created_at DESC, id);
GRANT SELECT, INSERT, UPDATE, DELETE ON engine_sessions TO spotplane_app;

CREATE TABLE engine_session_files (
    session_id uuid NOT NULL REFERENCES engine_sessions (id) ON DELETE CASCADE,
    seq        int NOT NULL,
    name       text NOT NULL,
    format     text NOT NULL
        CONSTRAINT engine_session_files_format_check CHECK (format IN ('onnx', 'cel')),
    sha256     bytea NOT NULL REFERENCES engine_files (sha256),
    PRIMARY KEY (session_id, seq),
    CONSTRAINT engine_session_files_name_key UNIQUE (session_id, name)
);
CREATE INDEX engine_session_files_content ON engine_session_files (sha256);
GRANT SELECT, INSERT ON engine_session_files TO spotplane_app;

-- One row: what every process must have loaded, and whether the loop does with it.
CREATE TABLE engine_state (
    singleton       boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    -- Rises with every change of the live session.
    generation      bigint NOT NULL DEFAULT 1,
    active_fallback boolean NOT NULL DEFAULT false,
    updated_at      timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO engine_state DEFAULT VALUES;
GRANT SELECT, UPDATE ON engine_state TO spotplane_app;

-- What happened to an agent, without the changes of state that live views are made of.
CREATE INDEX outbox_events_agent ON outbox_events (tenant_id, aggregate_id, occurred_at DESC)
    WHERE tenant_id IS NOT NULL AND event_type NOT LIKE '%.status\_changed';

-- Pools that refuse launches, across tenants.
CREATE INDEX replicas_failed ON replicas (updated_at) WHERE status = 'failed';
