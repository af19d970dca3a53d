"""HTML pages: API docs and the status page."""
