"""Projects: their rules, statements and routes."""
