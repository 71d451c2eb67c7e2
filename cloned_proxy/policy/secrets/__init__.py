"""Secrets as text: their names, their spellings on the wire, and what is never shown."""
