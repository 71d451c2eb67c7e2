"""Pipelines: read, run step after step, and what they made kept."""
