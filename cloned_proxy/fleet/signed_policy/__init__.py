"""The policy of a fleet: where its envelopes come from, and which one is in force."""
