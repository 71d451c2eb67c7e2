"""Tokens that a proxy can verify but not make, and the keys to verify them with."""
