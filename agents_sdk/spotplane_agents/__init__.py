"""The agent SDK: everything an instance needs to be a Spotplane agent."""
