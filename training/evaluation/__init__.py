"""Measuring a bundle through the one pipeline, each figure with its interval. No torch."""
