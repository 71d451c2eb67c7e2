"""Where a command works: workspace, settings, policy, and the options that say so."""
