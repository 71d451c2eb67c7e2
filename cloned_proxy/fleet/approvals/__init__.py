"""Requests of tools and the decisions on them, all over the fleet."""
