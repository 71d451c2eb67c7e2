"""Rules with `max_uses`, counted exactly over all replicas."""
