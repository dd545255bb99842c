"""What can go wrong while training, by who must act.

TrainingError
|- ConfigError          the configuration: correct the YAML file
|- DataError            the data: set AHS_DATA_DIR, or mend the named file
|- CheckpointError      the checkpoint: it belongs to another run, or is damaged
|- NonFiniteLossError   the run: look at the saved batch
|- ParityError          the export: it does not say what the torch model says
|- BaseSetError         the base set: take the one that shipped, or make one with `ahs-train base-set`
|- LabelsError          the labels: export them again
|- RefitError           the refit: it does not pass its own self-test
`- RetrainError         a step of the retraining; the message names it, the same command goes on there
"""

from __future__ import annotations


class TrainingError(Exception):
    """Root of the tree."""


class ConfigError(TrainingError):
    """The configuration is not usable; the message names the key."""


class DataError(TrainingError):
    """A data set is absent or damaged; the message says what to do."""


class CheckpointError(TrainingError):
    """A checkpoint cannot be continued from."""


class NonFiniteLossError(TrainingError):
    """The loss became NaN or infinite; the batch was saved beside the checkpoints."""


class ParityError(TrainingError):
    """An exported model disagrees with the model it was made from."""


class BaseSetError(TrainingError):
    """A base set is absent, was changed, or belongs to another embedder."""


class LabelsError(TrainingError):
    """A folder of labels cannot be used; the message names the entry."""


class RefitError(TrainingError):
    """The refitted bundle cannot be written or does not pass its own self-test."""


class RetrainError(TrainingError):
    """A step of a retraining failed, or its work folder belongs to other inputs."""
