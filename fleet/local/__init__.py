"""The whole system on one machine, as subprocesses: the demo and the end-to-end tests stand on it.

Starts `python -m ...` and speaks REST; imports neither the edge agent nor the cloud.
"""
