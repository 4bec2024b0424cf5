"""Lets our own processes start each other without knowing where scripts are installed."""

from spotplane_server.cli import app

app(prog_name="spotplane")
