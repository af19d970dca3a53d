"""The parts that the benchmarks share: data, servers and load generators."""
