"""What a kit knows of itself: figures, validations, and where it runs."""
