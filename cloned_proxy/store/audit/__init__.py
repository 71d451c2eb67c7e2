"""`.cloned/state.db`: the log with its chain, the roll-up, the history of the policy."""
