"""Frames in: camera, stream, video, folder, simulated microscope behind one port; freshness and quality gates."""
