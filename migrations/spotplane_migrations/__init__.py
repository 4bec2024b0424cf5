"""The database schema as numbered, forward-only SQL files."""
