"""Who is in a fleet, and how one replica is put together."""
