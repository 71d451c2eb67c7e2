"""The next step for someone who was denied, and what is wider than it looks."""
