"""`status`, and the next step that the program alone shows."""
