"""Other detectors, to measure beside ours. Never a dependency: they live in an environment of their own."""
