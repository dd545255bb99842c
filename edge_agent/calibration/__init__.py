"""Limits of the quality gate learnt from a device's own fields."""
