"""What rules and decisions are made of: words, hosts, networks, a rule, a decision."""
