"""Files that `projkit assets` writes out."""
