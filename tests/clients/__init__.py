"""Models of existing clients, and tests of their whole lifecycles."""
