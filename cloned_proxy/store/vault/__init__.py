"""Secrets, encrypted, and the key to them."""
