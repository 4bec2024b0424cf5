"""The REST bridge: translates every HTTP route into a gRPC call."""
