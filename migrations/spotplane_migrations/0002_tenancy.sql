-- Tenants, their environments and their keys.

CREATE TABLE tenants (
    id                               uuid PRIMARY KEY,
    name                             text NOT NULL,
    email                            text NOT NULL,
    status                           text NOT NULL DEFAULT 'active'
        CONSTRAINT tenants_status_check CHECK (status IN ('active', 'suspended', 'deleted')),
    billing_plan                     text NOT NULL DEFAULT 'serverless'
        CONSTRAINT tenants_billing_plan_check CHECK (billing_plan IN ('serverless', 'reserved', 'enterprise')),
    metadata                         jsonb NOT NULL DEFAULT '{}',
    region_preferences               jsonb NOT NULL DEFAULT '{}',
    billing_customer_id              text,
    reserved_capacity_tokens_per_sec int NOT NULL DEFAULT 0,
    suspension_id                    uuid,
    suspension_reason                text,
    suspension_notes                 text,
    suspended_at                     timestamptz,
    created_at                       timestamptz NOT NULL,
    updated_at                       timestamptz NOT NULL,
    deleted_at                       timestamptz
);
-- A deleted tenant never blocks a new sign-up with its e-mail.
CREATE UNIQUE INDEX tenants_email_key ON tenants (lower(email)) WHERE deleted_at IS NULL;
CREATE INDEX tenants_status ON tenants (status);
CREATE INDEX tenants_deleted_at ON tenants (deleted_at);
CREATE INDEX tenants_created_at ON tenants (created_at DESC, id);
CALL isolate_tenants('tenants', 'id');
GRANT SELECT, INSERT, UPDATE ON tenants TO spotplane_app;

CREATE TABLE environments (
    tenant_id                uuid NOT NULL REFERENCES tenants (id),
    id                       uuid NOT NULL,
    name                     text NOT NULL,
    region_code              text NOT NULL,
    model_list               jsonb NOT NULL DEFAULT '[]',
    key_label                text NOT NULL DEFAULT 'live'
        CONSTRAINT environments_key_label_check CHECK (key_label IN ('live', 'test')),
    requests_per_minute      int NOT NULL DEFAULT 10000 CHECK (requests_per_minute > 0),
    quota_tokens_per_minute  int,
    quota_tokens_per_day     bigint,
    concurrency_limit        int,
    status                   text NOT NULL DEFAULT 'active'
        CONSTRAINT environments_status_check CHECK (status IN ('active', 'suspended')),
    created_at               timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT environments_name_key UNIQUE (tenant_id, name)
);
CALL isolate_tenants('environments');
GRANT SELECT, INSERT, UPDATE ON environments TO spotplane_app;

CREATE TABLE api_keys (
    tenant_id         uuid NOT NULL REFERENCES tenants (id),
    id                uuid NOT NULL,
    environment_id    uuid NOT NULL,
    key_hash          bytea NOT NULL CONSTRAINT api_keys_key_hash_key UNIQUE,
    key_prefix        text NOT NULL,
    user_id           uuid,
    name              text NOT NULL DEFAULT '',
    description       text,
    role              text NOT NULL
        CONSTRAINT api_keys_role_check CHECK (role IN ('read_only', 'developer', 'admin', 'agent')),
    rate_limit_rpm    int NOT NULL CHECK (rate_limit_rpm > 0),
    rate_limit_tpm    int CHECK (rate_limit_tpm > 0),
    concurrency_limit int NOT NULL CHECK (concurrency_limit > 0),
    status            text NOT NULL DEFAULT 'active'
        CONSTRAINT api_keys_status_check CHECK (status IN ('active', 'suspended', 'revoked')),
    -- The tenant's suspension that holds this key; null when an operator suspended it on its own.
    suspension_id     uuid,
    rotated_from      uuid,
    replaced_by       uuid,
    metadata          jsonb NOT NULL DEFAULT '{}',
    last_used_at      timestamptz,
    expires_at        timestamptz,
    revoked_at        timestamptz,
    created_at        timestamptz NOT NULL,
    updated_at        timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, environment_id) REFERENCES environments (tenant_id, id)
);
CREATE INDEX api_keys_id ON api_keys (id);
CREATE INDEX api_keys_environment ON api_keys (tenant_id, environment_id);
CREATE INDEX api_keys_status ON api_keys (tenant_id, status);
CREATE INDEX api_keys_created_at ON api_keys (tenant_id, created_at DESC, id);
CALL isolate_tenants('api_keys');
GRANT SELECT, INSERT, UPDATE ON api_keys TO spotplane_app;
