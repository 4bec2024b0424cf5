-- An alert is evaluated once on the price that is current when it is created, and on new prices from then on.
ALTER TABLE pricing_alerts ADD COLUMN evaluated boolean NOT NULL DEFAULT false;
UPDATE pricing_alerts SET evaluated = true;
CREATE INDEX pricing_alerts_unevaluated ON pricing_alerts (created_at) WHERE enabled AND NOT evaluated;
