"""`policy` and `preset`."""
