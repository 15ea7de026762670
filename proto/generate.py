# SPDX-License-Identifier: Apache-2.0
"""Generate the Python code of every proto source into spiffekit/wire/pb; `--check` only compares.

Run by `make proto` and, with `--check`, by `make check`, so the generated files never drift.
"""

import filecmp
import shutil
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = Path("spiffekit/wire/pb")
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"


def generate(target: Path) -> None:
    """Write all generated files below `target`."""
    sources = sorted(path.relative_to(ROOT / "proto") for path in (ROOT / "proto").rglob("*.proto"))
    include = [f"-I{OUTPUT}={ROOT / 'proto'}", f"-I{WELL_KNOWN}"]
    packaged = [str(OUTPUT / path) for path in sources if path.name != "workload.proto"]
    out = [f"--{kind}_out={target}" for kind in ("python", "pyi", "grpc_python")]
    run([*include, *out, f"--mypy_grpc_out={target}", *packaged])
    # The Workload API has no package: a module made from it would clash with other clients of the
    # standard in the same process. It ships as a descriptor set and is loaded into a pool of its own.
    (target / OUTPUT).mkdir(parents=True, exist_ok=True)
    run(
        [
            *include,
            f"--descriptor_set_out={target / OUTPUT / 'workload.binpb'}",
            "--include_imports",
            f"--pyi_out={target}",
            str(OUTPUT / "workload.proto"),
        ]
    )
    for folder in {path.parent for path in (target / OUTPUT).rglob("*.py*")}:
        for package in [folder, *folder.parents]:
            if package == target / OUTPUT.parent:
                break
            (package / "__init__.py").touch()


def run(arguments: list[str]) -> None:
    """Run protoc, or exit with its message."""
    if protoc.main(["protoc", *arguments]) != 0:
        sys.exit("protoc failed")


def differences(left: Path, right: Path) -> list[str]:
    """Return the files that differ or stand on one side only."""
    names = {p.relative_to(left) for p in left.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    names |= {p.relative_to(right) for p in right.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    return sorted(
        str(name)
        for name in names
        if not (left / name).is_file()
        or not (right / name).is_file()
        or not filecmp.cmp(left / name, right / name, shallow=False)
    )


def main() -> None:
    """Generate, or compare."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = Path(folder) / OUTPUT
        if sys.argv[1:] == ["--check"]:
            if stale := differences(fresh, ROOT / OUTPUT):
                sys.exit("generated files are stale, run `make proto`: " + ", ".join(stale))
            return
        shutil.rmtree(ROOT / OUTPUT, ignore_errors=True)
        shutil.copytree(fresh, ROOT / OUTPUT)


if __name__ == "__main__":
    main()
