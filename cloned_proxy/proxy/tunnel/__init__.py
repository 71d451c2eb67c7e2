"""From the first head of a connection to a tunnel."""
