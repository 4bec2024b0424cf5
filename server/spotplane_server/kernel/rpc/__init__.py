"""The server interceptor and its parts: deserialization, streams, idempotency."""
