"""The roots that a tool trusts, in each form in which its clients want them."""
