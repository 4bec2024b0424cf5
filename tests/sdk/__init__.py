"""The agent SDK, against a small plane that is a real gRPC server."""
