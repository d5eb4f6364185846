"""Generates *_pb2.py and *_pb2.pyi beside the .proto files of the tree, with protoc of grpcio-tools.

Run it without arguments to write the files, with --check to fail when one of them is stale. protoc pins its output
to the protobuf release it came with; the pin is taken out, because these messages use nothing that differs between
the releases that pyproject.toml allows, and so the output is also the same for every protoc of recent years.
"""

from __future__ import annotations

import re
import sys
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


def generate() -> dict[Path, str]:
    """The content of every generated file, by its path below the root."""
    sources = sorted(str(path.relative_to(ROOT)) for folder in FOLDERS for path in (ROOT / folder).glob("*.proto"))
    well_known = Path(protoc.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as out:
        arguments = [f"-I{ROOT}", f"-I{well_known}", f"--python_out={out}", f"--pyi_out={out}", *sources]
        if protoc.main(["protoc", *arguments]) != 0:
            raise SystemExit("protoc failed")
        written = sorted(Path(out).rglob("*_pb2.py*"))
        return {path.relative_to(out): PIN.sub("", path.read_text()) for path in written}


def is_stale(path: Path, content: str) -> bool:
    """Whether a generated file differs from what is in the tree."""
    target = ROOT / path
    return not target.exists() or target.read_text() != content


def main() -> int:
    """Write the files, or check them."""
    stale = {path: content for path, content in generate().items() if is_stale(path, content)}
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path} is stale: run packaging/gen/proto.py", file=sys.stderr)
        return 1 if stale else 0
    for path, content in stale.items():
        (ROOT / path).write_text(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
