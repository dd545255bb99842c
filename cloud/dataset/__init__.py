"""What readers have labelled, as data sets."""
