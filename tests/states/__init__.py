"""What holds of agents, instances, replicas and commands, whatever happens to them."""
