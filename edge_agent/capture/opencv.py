"""OpenCV as capture uses it: quiet. The only place that imports `cv2` for its set-up.

OpenCV, FFmpeg and the V4L driver report an absent camera or a bad frame on stderr, many lines a second and without a
time or a name. Whoever calls them here turns the failure into an error or a counted drop of its own, so their text is
switched off. `OPENCV_LOG_LEVEL` or `OPENCV_FFMPEG_LOGLEVEL` set in the environment brings it back for debugging.
"""

from __future__ import annotations

import os

# Read by OpenCV when FFmpeg is first used, so it has to be set before; -8 is AV_LOG_QUIET.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2

if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

__all__ = ["cv2"]
