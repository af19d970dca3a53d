"""What is counted, and how several workers count together."""
