"""A stand-in for Kaggle's API, on loopback, for the tests and for playing by hand.

It is what the kaggle package's own client talks to, instead of Kaggle: whatever the client
prints, retries or keeps silent about is the client's own. Nothing sent to it can leave the
machine; `environment` says how the client is brought here.
"""

from standin.faults import Fault
from standin.runs import Push, Run, failing, succeeding
from standin.server import KaggleStandIn
from standin.state import Blob, Dataset, Kernel, KernelVersion, Score, Settings, Submission, Version

__all__ = [
    "Blob",
    "Dataset",
    "Fault",
    "KaggleStandIn",
    "Kernel",
    "KernelVersion",
    "Push",
    "Run",
    "Score",
    "Settings",
    "Submission",
    "Version",
    "failing",
    "succeeding",
]
