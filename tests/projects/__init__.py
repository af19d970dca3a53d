"""The rules of projects."""
