"""From a decision to a grant or a refusal on record, the same for every way in."""
