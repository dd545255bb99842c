"""The cloud's console: sign-in, devices, uncertain images with both opinions, system."""
