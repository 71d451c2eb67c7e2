"""How a limit is shared out among the replicas."""
