"""Models: one file each, found by discovery."""
