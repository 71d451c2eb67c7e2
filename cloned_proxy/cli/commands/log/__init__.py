"""`log` and `audit`."""
