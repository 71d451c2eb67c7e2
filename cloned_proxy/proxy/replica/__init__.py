"""What the serving process of a replica has beside others: limits, log and identities of its fleet."""
