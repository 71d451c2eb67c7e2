"""`fleet`."""
