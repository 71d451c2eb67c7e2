"""Sealed slots: made, lent, served by the proxy, and cleared away."""
