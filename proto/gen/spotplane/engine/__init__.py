"""What remote decision engines implement."""
