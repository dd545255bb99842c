"""What a model is: bundles, the pipeline that runs them, generated slides, networks, the shipped zoo.

ONNX Runtime's wheels report to their maker over HTTPS unless told not to before the library is loaded (its Privacy.md).
A workstation beside a microscope reports to nobody but its laboratory, so that is switched off here, above every module
that loads it.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
