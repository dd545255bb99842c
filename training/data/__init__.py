"""Reading, rendering and serving of training data."""
