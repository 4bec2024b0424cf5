-- Usage records that could not be stored and that nobody is left to correct: kept until an operator
-- tries them again or discards them.

CREATE TABLE usage_dead_letters (
    tenant_id      uuid NOT NULL,
    id             uuid NOT NULL,
    -- Of the record as sent, so that one that comes again is kept once.
    record_hash    bytea NOT NULL,
    record         bytea NOT NULL,  -- a spotplane.v1.UsageRecord
    -- Of the sender, for records that name none.
    environment_id uuid,
    sender_kind    text NOT NULL
        CONSTRAINT usage_dead_letters_sender_check CHECK (sender_kind IN ('agent', 'tenant', 'admin')),
    sender_id      text NOT NULL,
    code           text NOT NULL,
    field          text NOT NULL,
    description    text NOT NULL,
    received_at    timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT usage_dead_letters_once UNIQUE (tenant_id, record_hash),
    FOREIGN KEY (tenant_id) REFERENCES tenants (id)
);
CREATE INDEX usage_dead_letters_recent ON usage_dead_letters (tenant_id, received_at DESC, id DESC);
CREATE INDEX usage_dead_letters_old ON usage_dead_letters (received_at);
CALL isolate_tenants('usage_dead_letters');
GRANT SELECT, INSERT, UPDATE, DELETE ON usage_dead_letters TO spotplane_app;
