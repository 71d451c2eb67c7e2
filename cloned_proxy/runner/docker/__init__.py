"""The container engine, and the containers that it is asked for."""
