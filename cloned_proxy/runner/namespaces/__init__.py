"""Sockets and names inside a slot's network namespace, made from outside."""
