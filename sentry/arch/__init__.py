"""What differs between processors, above the platform."""
