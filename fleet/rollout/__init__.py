"""Waves, gates, abort and rollback: pure rules; the controller that runs them is `cloud.rollouts`."""
