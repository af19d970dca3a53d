"""Redis clients for a single server, Sentinel or Cluster, with a timeout on every operation."""
