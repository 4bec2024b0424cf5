"""The edge: Envoy's configuration, generated from the API's descriptors, and its process."""
