"""OpenID Connect: logins at a provider, and verification of a provider's access tokens."""
