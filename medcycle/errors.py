"""The errors a user can cause, as one tree.

Every message says where (file or key), what was found, what is allowed and how to mend it. The command line turns
any :class:`MedcycleError` into that message and exit code 2; a traceback is always a bug of ours.
"""


class MedcycleError(Exception):
    """Base of every error that medcycle raises on purpose."""


class ConfigError(MedcycleError):
    """A configuration file or override is wrong."""


class ScanError(MedcycleError):
    """A scan, or a folder of scans, cannot be read, is unsafe to use, or cannot be written."""


class ModelError(MedcycleError):
    """A model file or network does not fit what is asked of it."""


class CheckpointError(MedcycleError):
    """A training checkpoint is missing, damaged, or belongs to another configuration."""


class TrainingError(MedcycleError):
    """Training cannot start or go on (for example: a loss is not finite)."""


class DownloadError(MedcycleError):
    """A data set cannot be downloaded, or its archive is not what it should be."""
