"""Generates *_pb2.py and *_pb2.pyi beside the .proto files of the tree, with protoc of grpcio-tools.

protoc pins its output to the protobuf release it came with; the pin is taken out, because these messages use nothing
that differs between the releases that pyproject.toml allows, and so the output is also the same for every protoc of
recent years.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (Path("proto/containerd"), Path("tests/integration/kubelet"))

PIN = re.compile(
    r"^from google\.protobuf import runtime_version as _runtime_version\n"
    r"|^_runtime_version\.ValidateProtobufRuntimeVersion\(\n.*?^\)\n"
    r"|^# Protobuf Python Version: [^\n]*\n",
    re.MULTILINE | re.DOTALL,
)


def outputs() -> dict[Path, str]:
    sources = sorted(str(path.relative_to(ROOT)) for folder in FOLDERS for path in (ROOT / folder).glob("*.proto"))
    well_known = Path(protoc.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as out:
        arguments = [f"-I{ROOT}", f"-I{well_known}", f"--python_out={out}", f"--pyi_out={out}", *sources]
        if protoc.main(["protoc", *arguments]) != 0:
            raise SystemExit("protoc failed")
        written = sorted(Path(out).rglob("*_pb2.py*"))
        return {ROOT / path.relative_to(out): PIN.sub("", path.read_text()) for path in written}
