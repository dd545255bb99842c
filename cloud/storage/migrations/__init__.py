"""The tables' history, one file a step, each with its way back."""
