"""What is signed in a fleet, with what, and how that is checked."""
