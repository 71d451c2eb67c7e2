"""The decision point and its stages, for a request and for a whole URL."""
