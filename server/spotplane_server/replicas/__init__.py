"""Replicas: instances that stand by, where they are placed, and how one takes over."""
