"""Measurements. Each writes its document only from what it has just measured."""
