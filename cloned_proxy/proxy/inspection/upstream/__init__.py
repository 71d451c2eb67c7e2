"""Connections to the upstreams of an opened tunnel, whichever version of HTTP is spoken there."""
