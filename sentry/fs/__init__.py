"""File systems: one file each."""
