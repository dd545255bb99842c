"""The registry of devices and what each last said of itself."""
