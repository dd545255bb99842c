"""Model update on the device: trust, chunks, slots, trial, soak, rollback, over a passive core."""
