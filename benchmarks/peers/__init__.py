"""The applications projkit is measured against, each as its own team would write it."""
