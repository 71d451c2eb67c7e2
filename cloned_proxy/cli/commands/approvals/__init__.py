"""`approvals`."""
