"""Bytes to values, strictly, and back. Pure: no socket, no clock."""
