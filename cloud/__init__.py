"""The cloud service: second opinions, ingest of what the fleet reports, devices, and a first console."""

__version__ = "0.1.0"
