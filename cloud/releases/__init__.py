"""Signed releases, the trust message, chunks to devices, what each device is to run."""
