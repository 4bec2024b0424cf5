"""The control plane: every gRPC service, the agent streams and the background jobs."""
