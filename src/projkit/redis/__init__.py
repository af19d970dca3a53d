"""Redis: one server, Sentinel or Cluster, with every wait bounded."""
