"""Tests of the agent SDK against a small real gRPC server."""
