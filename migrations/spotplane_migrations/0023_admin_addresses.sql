-- Where an administrator's credential may be used from; empty: from anywhere.

ALTER TABLE admin_credentials ADD COLUMN cidrs cidr[] NOT NULL DEFAULT '{}';
