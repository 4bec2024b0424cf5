"""Generated stubs and descriptors of the Spotplane API; regenerate with `make proto`."""
