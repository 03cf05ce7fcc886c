"""The mistakes a user can make, one type for each kind.

Each message names the file or value and the mend, in one or two lines. The command line
prints it without a traceback and ends with exit status 2, or 3 for a TryAgainError; anything
else that is raised is a fault of ours and keeps its traceback.
"""


class UserError(Exception):
    """Base of every mistake that the user, not the program, can mend."""


class ProblemFileError(UserError):
    """A file of problems that cannot be read as such: columns, ids, emptiness."""


class WeightsError(UserError):
    """A weights folder that is incomplete, corrupt, or made for another backbone."""


class BundleError(UserError):
    """A vendored bundle that is missing, stale, or changed after its manifest."""


class ParameterError(UserError):
    """A notebook or command-line parameter that is missing, unknown or of a wrong type."""


class EndpointError(UserError, ValueError):
    """A function that the evaluation package would not take as an endpoint."""


class EvaluationPackageError(UserError):
    """The competition's own evaluation package is not whole, or calls another endpoint."""


class PortError(UserError):
    """No port of the evaluation protocol is free."""


class CheckpointError(UserError):
    """A training checkpoint that is damaged, belongs to another run, or cannot be written."""


class TrainingError(UserError):
    """A training run that cannot go on: its loss is no number any more."""


class DataError(UserError):
    """Training data that cannot be found, read or used: columns, files, nothing left."""


class MemoryLimitError(UserError):
    """What was asked for needs more memory than there is, known before any of it is taken."""


class EngineFailedError(UserError):
    """An engine that broke in the middle of an evaluation: a server that is gone, no memory."""


class DeliveryError(UserError):
    """Kaggle refused something, or has something else than it should: a person must mend it."""


class TryAgainError(DeliveryError):
    """Kaggle could not be reached, or had no time: the same command goes on later."""


class ResultsError(UserError):
    """A file of evaluation results that is none, damaged, or made with other settings."""


class BatchError(UserError):
    """A batch's description that is wrong, or a folder that it cannot have."""


def cause_of(fault: BaseException) -> str:
    """One line for any exception, even for one that cannot print itself; its notes left out."""
    try:
        words = " ".join(str(fault).split())
    except Exception:
        words = "its message cannot be shown"
    kind = type(fault).__name__
    return f"{kind}: {words}" if words else kind
