"""Authentication and authorization: credentials, policy, tickets, client addresses."""
