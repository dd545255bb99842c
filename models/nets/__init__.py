"""Torch definitions of the networks. Imported by training only: the edge and the cloud run their ONNX exports."""
