"""What learns to keep vectors small."""
