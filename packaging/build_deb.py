#!/usr/bin/env python3
"""Builds dist/pysc_*.deb from the wheels that build_wheel.py has made.

build_deb.py [OUT]        OUT instead of dist

The package has a folder of its own, /usr/lib/pysc, with pysc, protobuf and pyseccomp: Debian's protobuf is too old for
the messages, and it has no pyseccomp.  cffi's part is Debian's, for it must fit the interpreter, which ours need not:
the C cores use its stable ABI only.  So one package fits Debian 12 and newer.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEBIAN = Path(__file__).with_name("debian")
LIBRARY = "usr/lib/pysc"
DOC = "usr/share/doc/pysc"
VENDORED = ("protobuf", "pyseccomp")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
SCRIPT = """\
#!/usr/bin/python3 -I
import sys

sys.path.insert(0, "/usr/lib/pysc")
from {module} import entry

entry()
"""
SCRIPTS = {"pysc": "cli.entry", "containerd-shim-pysc-v1": "shim.main"}


def only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"deb: {folder}/{pattern}: {len(found)} files, not one: run packaging/build_wheel.py first")
    return found[0]


def unpack(path: Path, folder: Path) -> None:
    """What the wheel installs as modules; its metadata and scripts are not for us."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if not re.match(r"[^/]+\.(dist-info|data)/", entry.filename) and not entry.is_dir():
                made = Path(archive.extract(entry, folder))
                if entry.external_attr >> 16 & 0o100:  # the mode, which extract() forgets
                    made.chmod(0o755)


def licence(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("LICENSE"))
        return archive.read(name)


def write(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)


def version(own: Path) -> str:
    return own.name.split("-")[1]


def fill(tree: Path, wheels: Path, own: Path) -> None:
    """All files but those of DEBIAN/."""
    unpack(own, tree / LIBRARY)
    for name in VENDORED:
        path = only(wheels, f"{name}-*.whl")
        unpack(path, tree / LIBRARY)
        write(tree / DOC / f"{name}.LICENSE", licence(path))
    for name, module in SCRIPTS.items():
        write(tree / "usr/bin" / name, SCRIPT.format(module=module), 0o755)
    write(tree / "usr/share/python3/runtime.d/pysc.rtupdate", (DEBIAN / "runtime").read_text(), 0o755)
    write(tree / "etc/pysc/config.toml", default_configuration())
    write(tree / DOC / "copyright", (DEBIAN / "copyright").read_text())
    log = f"pysc ({version(own)}) stable; urgency=medium\n\n  * See README.md.\n"
    write(tree / DOC / "changelog.gz", gzip.compress(log.encode(), mtime=0))
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        write(tree / DOC / document.relative_to(ROOT), document.read_text())
    for folder in ("containerd", "kubernetes"):
        for example in sorted((ROOT / "packaging" / folder).glob("*")):
            write(tree / DOC / "examples" / folder / example.name, example.read_text())


def default_configuration() -> str:
    command = [sys.executable, "-c", "from cli.config import default_file; print(default_file(), end='')"]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def newest_libc(tree: Path) -> str:
    """The version of the C library that our compiled files need."""
    versions = {(2, 17)}
    for library in tree.rglob("*.so"):
        shown = subprocess.run(["objdump", "-T", library], check=True, stdout=subprocess.PIPE, text=True).stdout
        versions |= {(int(major), int(minor)) for major, minor in re.findall(r"GLIBC_(\d+)\.(\d+)", shown)}
    return "{}.{}".format(*max(versions))


def control(tree: Path, number: str) -> str:
    size = sum(path.lstat().st_size for path in tree.rglob("*") if path.is_file())
    values = {
        "VERSION": number,
        "ARCHITECTURE": ARCHITECTURES[os.uname().machine],
        "SIZE": str(-(-size // 1024)),
        "LIBC": newest_libc(tree),
    }
    text = (DEBIAN / "control").read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def md5sums(tree: Path) -> str:
    """dpkg --verify compares with these.  Not the configuration file's, which is the administrator's."""
    files = sorted(path for path in tree.rglob("*") if path.is_file() and "etc" not in path.relative_to(tree).parts[:1])
    return "".join(f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(tree)}\n" for path in files)


def describe(tree: Path, number: str) -> None:
    """DEBIAN/, last: it counts what is there."""
    metadata = {"control": control(tree, number), "md5sums": md5sums(tree), "conffiles": "/etc/pysc/config.toml\n"}
    for name, text in metadata.items():
        write(tree / "DEBIAN" / name, text)
    for name in ("postinst", "prerm", "postrm"):
        write(tree / "DEBIAN" / name, (DEBIAN / name).read_text(), 0o755)


def build(out: Path) -> Path:
    own = only(out, "pysc-*.whl")
    with tempfile.TemporaryDirectory(prefix="pysc-deb-") as folder:
        tree = Path(folder) / "tree"
        fill(tree, out / "wheels", own)
        describe(tree, version(own))
        for path in (tree, *tree.rglob("*")):
            path.chmod(0o755 if path.is_dir() or (os.access(path, os.X_OK) and path.suffix != ".so") else 0o644)
        for old in out.glob("pysc_*.deb"):
            old.unlink()
        made = Path(folder) / "pysc.deb"
        # Compressed so that any dpkg reads it, and always the same way.
        command = ["dpkg-deb", "--root-owner-group", "-Zxz", "-z3", "--build", str(tree), str(made)]
        environment = {"SOURCE_DATE_EPOCH": str(int(own.stat().st_mtime)), **os.environ}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        architecture = ARCHITECTURES[os.uname().machine]
        return Path(shutil.move(made, out / f"pysc_{version(own)}_{architecture}.deb"))


def main(arguments: list[str]) -> None:
    print(f"deb: {build(Path(arguments[0]) if arguments else ROOT / 'dist')}")


if __name__ == "__main__":
    main(sys.argv[1:])
