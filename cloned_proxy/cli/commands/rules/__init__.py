"""`allow`, `deny`, `remove`, `list`, `explain`."""
