"""`SafeFetch`: HTTP for Python tools that asks the policy first and goes through the proxy. Convenience, no wall."""
