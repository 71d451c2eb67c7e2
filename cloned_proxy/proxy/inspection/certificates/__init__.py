"""The workspace's authority, and TLS on both sides of an opened tunnel."""
