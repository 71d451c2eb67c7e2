"""`image`."""
