"""A whole policy as one immutable value."""
