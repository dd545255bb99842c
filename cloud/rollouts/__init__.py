"""Rollouts: asked for over REST, carried on by the worker that leads, decided by `fleet.rollout`."""
