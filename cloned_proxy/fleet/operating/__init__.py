"""What an operator does to a whole fleet: publish, and let leases go on."""
