"""What the commands that edit have in common."""
