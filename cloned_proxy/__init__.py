"""cloned-proxy: the egress firewall for AI-agent tools."""
