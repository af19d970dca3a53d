"""The applications that projkit is compared with, each as its own team would write it."""
