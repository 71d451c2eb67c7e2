"""From a name to a connection: addresses, dials, and the way through a proxy in front."""
