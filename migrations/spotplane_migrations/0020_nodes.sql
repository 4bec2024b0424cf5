-- Nodes: machines that an agent runs and that serve models, launched by the plane or come by themselves.

CREATE TABLE nodes (
    id                 uuid PRIMARY KEY,
    cluster_name       text NOT NULL CONSTRAINT nodes_cluster_name_key UNIQUE,
    -- Whose it is; the operator's own where NULL.
    tenant_id          uuid REFERENCES tenants (id),
    provider           text NOT NULL
        CONSTRAINT nodes_provider_check CHECK (provider IN ('aws', 'azure', 'gcp', 'oci', 'on-prem')),
    region_id          uuid REFERENCES regions (id),
    instance_type_id   int REFERENCES instance_types (id),
    model_id           uuid REFERENCES models (id),
    -- Empty until it has registered.
    endpoint_url       text NOT NULL DEFAULT '',
    internal_ip        text,
    gpu_type           text,
    vram_total_gb      numeric(10, 2) CHECK (vram_total_gb >= 0),
    spot_instance      boolean NOT NULL DEFAULT false,
    spot_price         numeric(12, 6) CHECK (spot_price >= 0),
    status             text NOT NULL
        CONSTRAINT nodes_status_check CHECK (status IN
            ('launching', 'initializing', 'active', 'degraded', 'suspect', 'unhealthy', 'draining', 'terminating',
             'dead')),
    health_score       numeric(5, 2) NOT NULL DEFAULT 0
        CONSTRAINT nodes_health_score_check CHECK (health_score BETWEEN 0 AND 100),
    last_heartbeat_at  timestamptz,
    -- What its own clock said at the newest heartbeat, where it said anything.
    heartbeat_sent_at  timestamptz,
    -- When its cloud takes it back, once that was announced.
    termination_at     timestamptz,
    -- When its launch was ordered; NULL for one that came by itself.
    launched_at        timestamptz,
    active_at          timestamptz,
    terminated_at      timestamptz,
    status_message     text,
    created_at         timestamptz NOT NULL,
    updated_at         timestamptz NOT NULL
-- Heartbeats rewrite columns that no index has, so they stay within their page if it has room.
) WITH (fillfactor = 60);
CREATE INDEX nodes_region ON nodes (region_id, status);
CREATE INDEX nodes_instance_type ON nodes (instance_type_id, status);
CREATE INDEX nodes_model ON nodes (model_id, status);
CREATE INDEX nodes_tenant ON nodes (tenant_id, created_at DESC, id);
CREATE INDEX nodes_recent ON nodes (created_at DESC, id DESC);
CREATE INDEX nodes_old ON nodes (terminated_at) WHERE terminated_at IS NOT NULL;
CALL isolate_tenants('nodes');
GRANT SELECT, INSERT, UPDATE, DELETE ON nodes TO spotplane_app;

-- A node is an instance that serves models: one list shows both. An instance's id is unique in its tenant only, so a
-- UUID is made of both; where the catalogue lacks its region, its cloud is the one that the fleet's agents launch in.
-- Row-level security holds for whoever reads the view.
CREATE VIEW nodes_and_instances WITH (security_invoker = true) AS
    SELECT n.id, n.cluster_name, n.tenant_id, 'node' AS kind, n.provider, r.code AS region, t.instance_type,
           m.name AS model, n.endpoint_url, n.internal_ip, n.gpu_type, n.vram_total_gb, n.spot_instance, n.spot_price,
           n.status, n.health_score, n.last_heartbeat_at, n.termination_at, n.launched_at, n.active_at,
           n.terminated_at, n.status_message, n.created_at
      FROM nodes n
      LEFT JOIN regions r ON r.id = n.region_id
      LEFT JOIN instance_types t ON t.id = n.instance_type_id
      LEFT JOIN models m ON m.id = n.model_id
     UNION ALL
    SELECT md5(i.tenant_id || '/' || i.id)::uuid, i.id, i.tenant_id, 'instance', coalesce(r.provider, 'aws'), i.region,
           i.instance_type, NULL, '', i.private_ip, t.gpu_model, t.gpu_memory_gb, i.mode = 'spot', NULL::numeric,
           CASE WHEN i.status IN ('running_primary', 'running_replica', 'promoting') THEN 'active'
                WHEN i.status = 'zombie' THEN 'draining'
                WHEN i.status = 'terminated' THEN 'dead'
                ELSE i.status END,
           0::numeric, s.last_heartbeat_at, NULL::timestamptz, i.launched_at, i.active_at, i.terminated_at, NULL,
           i.launched_at
      FROM instances i
      LEFT JOIN agent_sessions s ON s.tenant_id = i.tenant_id AND s.instance_id = i.id
      LEFT JOIN regions r ON r.id = i.region_id
      LEFT JOIN instance_types t ON t.id = i.instance_type_id;
GRANT SELECT ON nodes_and_instances TO spotplane_app;
