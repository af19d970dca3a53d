"""What the benchmarks' commands are made of."""
