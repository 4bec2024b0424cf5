-- What polling agents and dashboards see of replicas, and what an emergency leaves on record.

ALTER TABLE replicas
    ADD COLUMN tags                     jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN sync_latency_ms          int CHECK (sync_latency_ms >= 0),
    ADD COLUMN sync_started_at          timestamptz,
    ADD COLUMN sync_completed_at        timestamptz,
    ADD COLUMN termination_confirmed_at timestamptz,
    -- Asked for by or in manual mode: nobody wants it once that is off.
    ADD COLUMN for_manual_mode          boolean NOT NULL DEFAULT false,
    -- What a promotion did, so that repeating it answers the same.
    ADD COLUMN replaced_instance_id     text,
    ADD COLUMN demoted                  boolean NOT NULL DEFAULT false,
    -- Requested in its place, in the transaction that promoted or ended it.
    ADD COLUMN successor_id             uuid,
    -- What it has cost until `cost_until`; that is null before the launch and once the sum is final.
    ADD COLUMN cost_nanousd             bigint NOT NULL DEFAULT 0,
    ADD COLUMN cost_until               timestamptz,
    -- When its tenant was told that nobody confirms its end.
    ADD COLUMN unconfirmed_told_at      timestamptz;
UPDATE replicas SET for_manual_mode = true WHERE created_by = 'coordinator';
UPDATE replicas SET cost_until = launched_at WHERE bound;
CREATE INDEX replicas_costing ON replicas (cost_until) WHERE cost_until IS NOT NULL;
CREATE INDEX replicas_live ON replicas (tenant_id, created_at) WHERE status IN ('launching', 'syncing', 'ready');

-- A promoted replica's instance may stand by again, demoted, as another replica.
DROP INDEX replicas_instance_key;
CREATE UNIQUE INDEX replicas_instance_key ON replicas (tenant_id, instance_id) WHERE status <> 'promoted';

ALTER TABLE failovers
    -- When its strongest signal came, and when that was first acted on.
    ADD COLUMN noticed_at            timestamptz,
    ADD COLUMN acted_at              timestamptz,
    -- Switches of last resort: how often, when and which the last one.
    ADD COLUMN switch_count          int NOT NULL DEFAULT 0,
    ADD COLUMN switch_queued_at      timestamptz,
    ADD COLUMN switch_command_id     uuid,
    -- What would have held a routine change back.
    ADD COLUMN bypassed              text[] NOT NULL DEFAULT '{}',
    -- What the agent asked of the place of its replacement.
    ADD COLUMN wanted_pool_id        text,
    ADD COLUMN preferred_zones       text[] NOT NULL DEFAULT '{}',
    ADD COLUMN excluded_zones        text[] NOT NULL DEFAULT '{}',
    -- The market around it, filled in afterwards by a job; null until then.
    ADD COLUMN features_at           timestamptz,
    ADD COLUMN price_trend           text
        CONSTRAINT failovers_price_trend_check CHECK (price_trend IN ('rising', 'falling', 'stable', 'unknown')),
    ADD COLUMN price_change_percent  real,
    ADD COLUMN weekday               smallint,  -- 0 is Sunday
    ADD COLUMN hour                  smallint,
    -- Interruptions of 24 hours for each pool, and the mean over the region's pools of the type.
    ADD COLUMN pool_interruptions    int,
    ADD COLUMN region_interruptions  real,
    ADD COLUMN earlier_interruptions int;
ALTER TABLE failovers DROP CONSTRAINT failovers_action_check;
ALTER TABLE failovers ADD CONSTRAINT failovers_action_check CHECK (action IN
    ('none', 'promoted_replica', 'created_replica', 'queued_ondemand_switch', 'failed_replica'));
UPDATE failovers SET noticed_at = detected_at, features_at = detected_at;
CREATE INDEX failovers_newest ON failovers (detected_at DESC, id);
CREATE INDEX failovers_featureless ON failovers (detected_at) WHERE features_at IS NULL;
