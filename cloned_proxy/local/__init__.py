"""What two processes of one machine say to each other: about the sockets of a slot, and about what is served."""
