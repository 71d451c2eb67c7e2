"""Listening sockets, and bytes between two transports."""
