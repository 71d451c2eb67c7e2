"""What the enforcer gave, and what of the limits is in use: counted in rows that all workers share."""
