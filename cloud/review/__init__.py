"""Opinions that wait for a person."""
