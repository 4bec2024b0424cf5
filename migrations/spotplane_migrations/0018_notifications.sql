-- What people are told, and what they asked to be told. Notifications are made of events, by one
-- reader that keeps its place with them.

-- Where a reader of the outbox stands: moved in the transaction of what it made of the events.
CREATE TABLE event_cursors (
    consumer text PRIMARY KEY,
    txid     bigint NOT NULL,
    seq      bigint NOT NULL
);
GRANT SELECT, INSERT, UPDATE ON event_cursors TO spotplane_app;
-- Nobody is told anew of what is long past.
INSERT INTO event_cursors VALUES ('notifications', pg_snapshot_xmin(pg_current_snapshot())::text::bigint, 0);

CREATE TABLE notifications (
    tenant_id  uuid NOT NULL REFERENCES tenants (id),
    id         uuid NOT NULL,
    agent_id   uuid,
    severity   text NOT NULL
        CONSTRAINT notifications_severity_check CHECK (severity IN ('info', 'warning', 'error')),
    message    text NOT NULL,
    created_at timestamptz NOT NULL,
    read_at    timestamptz,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX notifications_recent ON notifications (tenant_id, created_at DESC, id);
CREATE INDEX notifications_newest ON notifications (created_at DESC, id);
CREATE INDEX notifications_id ON notifications (id);
-- Equal ones are sent once in a while.
CREATE INDEX notifications_said ON notifications (tenant_id, agent_id, created_at DESC);
CREATE INDEX notifications_read ON notifications (read_at) WHERE read_at IS NOT NULL;
CALL isolate_tenants('notifications');
GRANT SELECT, INSERT, UPDATE, DELETE ON notifications TO spotplane_app;

-- Global notifications; every tenant reads them, and each for itself.
CREATE TABLE announcements (
    id         uuid PRIMARY KEY,
    severity   text NOT NULL
        CONSTRAINT announcements_severity_check CHECK (severity IN ('info', 'warning', 'error')),
    message    text NOT NULL,
    created_at timestamptz NOT NULL,
    -- By an administrator.
    read_at    timestamptz
);
CREATE INDEX announcements_recent ON announcements (created_at DESC, id);
GRANT SELECT, INSERT, UPDATE, DELETE ON announcements TO spotplane_app;

CREATE TABLE announcement_reads (
    tenant_id       uuid NOT NULL REFERENCES tenants (id),
    announcement_id uuid NOT NULL REFERENCES announcements (id) ON DELETE CASCADE,
    read_at         timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, announcement_id)
);
CREATE INDEX announcement_reads_announcement ON announcement_reads (announcement_id);
CALL isolate_tenants('announcement_reads');
GRANT SELECT, INSERT, UPDATE, DELETE ON announcement_reads TO spotplane_app;

CREATE TABLE pricing_alerts (
    tenant_id         uuid NOT NULL REFERENCES tenants (id),
    id                uuid NOT NULL,
    alert_type        text NOT NULL
        CONSTRAINT pricing_alerts_type_check CHECK (alert_type IN
            ('price_spike', 'price_drop', 'threshold_above', 'threshold_below')),
    threshold_nanousd bigint NOT NULL CHECK (threshold_nanousd > 0),
    -- None: every pool in which the tenant runs an active instance.
    pool_id           text,
    channels          text[] NOT NULL,
    enabled           boolean NOT NULL,
    created_at        timestamptz NOT NULL,
    last_triggered_at timestamptz,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX pricing_alerts_pool ON pricing_alerts (pool_id) WHERE enabled;
CALL isolate_tenants('pricing_alerts');
GRANT SELECT, INSERT, UPDATE, DELETE ON pricing_alerts TO spotplane_app;

-- An alert's hysteresis, pool by pool.
CREATE TABLE pricing_alert_states (
    tenant_id    uuid NOT NULL,
    alert_id     uuid NOT NULL,
    pool_id      text NOT NULL,
    armed        boolean NOT NULL,
    triggered_at timestamptz,
    PRIMARY KEY (tenant_id, alert_id, pool_id),
    FOREIGN KEY (tenant_id, alert_id) REFERENCES pricing_alerts (tenant_id, id) ON DELETE CASCADE
);
CALL isolate_tenants('pricing_alert_states');
GRANT SELECT, INSERT, UPDATE, DELETE ON pricing_alert_states TO spotplane_app;

-- Letters to be sent; kept until the mail server has them, and then for a month.
CREATE TABLE emails (
    tenant_id       uuid NOT NULL REFERENCES tenants (id),
    id              uuid NOT NULL,
    recipient       text NOT NULL,
    subject         text NOT NULL,
    body            text NOT NULL,
    created_at      timestamptz NOT NULL,
    attempts        int NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL,
    sent_at         timestamptz,
    -- Given up: what the mail server said last.
    failure         text,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX emails_due ON emails (next_attempt_at) WHERE sent_at IS NULL AND failure IS NULL;
CREATE INDEX emails_old ON emails (created_at);
CALL isolate_tenants('emails');
GRANT SELECT, INSERT, UPDATE, DELETE ON emails TO spotplane_app;

-- How far the alerts have come in the news of clean prices.
CREATE TABLE price_alert_place (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    revision  bigint NOT NULL,
    pool_id   text NOT NULL,
    bucket_at timestamptz NOT NULL
);
INSERT INTO price_alert_place (revision, pool_id, bucket_at) SELECT revision + 1, '', '-infinity' FROM clean_revision;
GRANT SELECT, UPDATE ON price_alert_place TO spotplane_app;
