"""Sessions: one contract, kept in the database or in Redis."""
