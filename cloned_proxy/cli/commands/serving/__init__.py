"""`serve`."""
