"""Authentication: tokens, sessions, users, keys, CSRF and OpenID Connect."""
