-- What can be rented, where, and what is served on it. No tenant owns any of it.

CREATE TABLE regions (
    id              uuid PRIMARY KEY,
    code            text NOT NULL,
    name            text NOT NULL,
    provider        text NOT NULL
        CONSTRAINT regions_provider_check CHECK (provider IN ('aws', 'azure', 'gcp', 'oci')),
    country         text,
    city            text,
    status          text NOT NULL
        CONSTRAINT regions_status_check CHECK (status IN ('active', 'degraded', 'maintenance', 'offline')),
    cost_multiplier numeric(10, 4) NOT NULL DEFAULT 1 CHECK (cost_multiplier > 0),
    max_nodes       int CHECK (max_nodes >= 0),
    metadata        jsonb NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    deleted_at      timestamptz
);
-- A deleted region's code may be used again.
CREATE UNIQUE INDEX regions_code_key ON regions (code) WHERE deleted_at IS NULL;
CREATE INDEX regions_status ON regions (status);
CREATE INDEX regions_provider ON regions (provider, name, id);
GRANT SELECT, INSERT, UPDATE ON regions TO spotplane_app;

CREATE TABLE instance_types (
    id                     int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    provider               text NOT NULL
        CONSTRAINT instance_types_provider_check CHECK (provider IN ('aws', 'azure', 'gcp', 'oci')),
    instance_type          text NOT NULL,
    instance_name          text NOT NULL,
    vcpu_count             int NOT NULL CHECK (vcpu_count > 0),
    memory_gb              numeric(10, 2) NOT NULL CHECK (memory_gb > 0),
    gpu_count              int NOT NULL CHECK (gpu_count > 0),
    gpu_memory_gb          numeric(10, 2) NOT NULL CHECK (gpu_memory_gb > 0),
    gpu_model              text NOT NULL,
    gpu_compute_capability text,
    price_per_hour         numeric(12, 6) CHECK (price_per_hour >= 0),
    spot_price_per_hour    numeric(12, 6) CHECK (spot_price_per_hour >= 0),
    spot_price_defaulted   boolean NOT NULL DEFAULT false,
    is_available           boolean NOT NULL DEFAULT true,
    supports_spot          boolean NOT NULL DEFAULT false,
    metadata               jsonb NOT NULL DEFAULT '{}',
    created_at             timestamptz NOT NULL,
    updated_at             timestamptz NOT NULL,
    deleted_at             timestamptz,
    CONSTRAINT instance_types_spot_check CHECK (spot_price_per_hour <= price_per_hour)
);
CREATE UNIQUE INDEX instance_types_name_key ON instance_types (provider, instance_type) WHERE deleted_at IS NULL;
CREATE INDEX instance_types_provider ON instance_types (provider, instance_name, id);
CREATE INDEX instance_types_is_available ON instance_types (is_available);
GRANT SELECT, INSERT, UPDATE ON instance_types TO spotplane_app;

CREATE TABLE region_instance_availability (
    region_id        uuid NOT NULL REFERENCES regions (id),
    instance_type_id int NOT NULL REFERENCES instance_types (id),
    is_available     boolean NOT NULL DEFAULT true,
    stock_status     text NOT NULL DEFAULT 'available'
        CONSTRAINT region_instance_availability_stock_check CHECK (stock_status IN ('available', 'limited', 'out_of_stock')),
    updated_at       timestamptz NOT NULL,
    PRIMARY KEY (region_id, instance_type_id)
);
CREATE INDEX region_instance_availability_type ON region_instance_availability (instance_type_id);
GRANT SELECT, INSERT, UPDATE ON region_instance_availability TO spotplane_app;

CREATE TABLE models (
    id                             uuid PRIMARY KEY,
    name                           text NOT NULL CONSTRAINT models_name_key UNIQUE,
    family                         text NOT NULL,
    size                           text,
    type                           text NOT NULL
        CONSTRAINT models_type_check CHECK (type IN ('completion', 'chat', 'embedding')),
    context_length                 int NOT NULL CHECK (context_length > 0),
    vram_required_gb               int NOT NULL CHECK (vram_required_gb > 0),
    price_input_per_million        numeric(12, 6) NOT NULL DEFAULT 0 CHECK (price_input_per_million >= 0),
    price_cached_input_per_million numeric(12, 6) CHECK (price_cached_input_per_million >= 0),
    price_output_per_million       numeric(12, 6) NOT NULL DEFAULT 0 CHECK (price_output_per_million >= 0),
    tokens_per_second_capacity     int CHECK (tokens_per_second_capacity > 0),
    status                         text NOT NULL DEFAULT 'active'
        CONSTRAINT models_status_check CHECK (status IN ('active', 'deprecated', 'beta')),
    metadata                       jsonb NOT NULL DEFAULT '{}',
    created_at                     timestamptz NOT NULL,
    updated_at                     timestamptz NOT NULL
);
GRANT SELECT, INSERT, UPDATE ON models TO spotplane_app;

-- Prices from when on they hold, so that a late record is priced as of its own time. Values of a model:
-- {"input", "cached", "output"}, USD per million tokens as decimal text; of a region: {"multiplier"}.
CREATE TABLE price_history (
    kind       text NOT NULL
        CONSTRAINT price_history_kind_check CHECK (kind IN ('model', 'region')),
    ref_id     uuid NOT NULL,
    valid_from timestamptz NOT NULL,
    prices     jsonb NOT NULL,
    PRIMARY KEY (kind, ref_id, valid_from)
);
GRANT SELECT, INSERT ON price_history TO spotplane_app;
