-- One row a server that takes heartbeats down, and since when without a gap. The silence of an agent
-- counts only while the server that holds its session stores heartbeats; once that server has been
-- silent itself for `reconnect_within`, the agent has had the time to go to another one.
-- `last_flush_at` is PostgreSQL's time, `uninterrupted_since` the plane's.
CREATE TABLE heartbeat_listeners (
    server_id           text PRIMARY KEY,
    uninterrupted_since timestamptz NOT NULL,
    last_flush_at       timestamptz NOT NULL,
    reconnect_within    interval NOT NULL
);
GRANT SELECT, INSERT, UPDATE, DELETE ON heartbeat_listeners TO spotplane_app;

-- For how long a server may have received heartbeats that it has not stored: from its last flush on,
-- and no more once its agents have had the time to leave it.
CREATE VIEW heartbeat_listener_lags WITH (security_invoker = true) AS
SELECT server_id, uninterrupted_since,
       CASE WHEN last_flush_at > now() - reconnect_within
            THEN greatest(now() - last_flush_at, interval '0')
            ELSE interval '0' END AS lag
  FROM heartbeat_listeners;
GRANT SELECT ON heartbeat_listener_lags TO spotplane_app;
