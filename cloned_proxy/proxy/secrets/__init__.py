"""Secrets that are put into requests, and kept out of what must not hold them."""
