"""The rollout controller, its routes and what it decided."""
