"""Second opinions by the larger model."""
