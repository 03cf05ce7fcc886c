"""Lays out a stand-in of Kaggle's evaluation package, as the competition's files bring it."""

import shutil
from pathlib import Path

from helpers.wire_peer import PROTO

SOURCES = Path(__file__).with_name("evaluation_package")

# A gateway that asks for all problems in one call.
WHOLE_FRAME = """
import polars as pl
from kaggle_evaluation.core.gateway import Gateway


class AIMO3Gateway(Gateway):
    def batches(self):
        frame = pl.read_csv(self.path)
        yield [frame{as_pandas}], frame.select("id")
"""


def lay_out_package(competition: Path, version: str, gateway: str | None = None) -> Path:
    """`competition`/kaggle_evaluation in this version; `gateway` replaces its module."""
    from grpc_tools import protoc

    package = competition / "kaggle_evaluation"
    shutil.copytree(SOURCES, package, ignore=shutil.ignore_patterns("__pycache__"))
    init = package / "__init__.py"
    init.write_text(init.read_text(encoding="utf-8").replace("VERSION", version), encoding="utf-8")
    generated = package / "core" / "generated"
    generated.mkdir()
    (generated / "kaggle_evaluation.proto").write_text(PROTO, encoding="utf-8")
    out = [f"--python_out={generated}", f"--grpc_python_out={generated}"]
    assert protoc.main(["protoc", f"-I{generated}", *out, "kaggle_evaluation.proto"]) == 0
    if gateway is not None:
        (package / "aimo_3_gateway.py").write_text(gateway, encoding="utf-8")
    return package
