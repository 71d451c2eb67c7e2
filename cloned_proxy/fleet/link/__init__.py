"""The way to the store of a fleet, and what lies there under which name."""
