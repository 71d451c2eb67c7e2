"""Package registries under a rule with `registry`: metadata without what is too young, files only with a known date."""
