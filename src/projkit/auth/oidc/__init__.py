"""OpenID Connect: logging in at a provider, and taking the access tokens of one."""
