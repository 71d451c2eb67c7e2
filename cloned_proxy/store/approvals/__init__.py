"""Requests of tools for other rules, from the call that was refused to the decision."""
