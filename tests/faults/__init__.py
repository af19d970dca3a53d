"""What goes wrong in production, done on purpose to servers that the tests start themselves."""
