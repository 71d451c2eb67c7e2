"""`.cloned/config.yaml`: its sections, their defaults and bounds."""
