"""`connect`, `proxy`, `token`, `ca`, `setup`, `pair`, `vault`: what clients need."""
