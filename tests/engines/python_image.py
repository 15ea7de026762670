# SPDX-License-Identifier: Apache-2.0
"""A small image of this Python, so that ours can be built where no registry is at hand."""

import io
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

from tests.engines.packages import need

LEFT_OUT = {"__pycache__", "idlelib", "site-packages", "test", "tests", "turtledemo"}
# Wheels "for many Linuxes" expect them of any.
WHEELS_NEED = (
    *("libc.so.6", "libdl.so.2", "libgcc_s.so.1", "libm.so.6", "libpthread.so.0", "libresolv.so.2"),
    *("librt.so.1", "libstdc++.so.6", "libutil.so.1"),
)


def archive():
    """Return a root, as a tar archive, that has `sh`, `python` and what they load, and nothing else."""
    need({"busybox": "busybox-static"})
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    program, library = Path(sys.base_prefix, "bin", version), Path(sysconfig.get_path("stdlib"))
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", dereference=True) as tar:
        tar.add(shutil.which("busybox"), "bin/sh")
        tar.add(program, f"usr/local/bin/{version}")
        tar.add(library, f"usr/local/lib/{version}", filter=_needed)
        for name, path in _libraries(program, *library.glob("lib-dynload/*.so")).items():
            tar.add(path, f"lib/{name}")
        tar.add(_loader(program), str(_loader(program)).lstrip("/"))
        link = tarfile.TarInfo("usr/local/bin/python")
        link.type, link.linkname = tarfile.SYMTYPE, version
        tar.addfile(link)
        for name in ("etc", "proc", "sys", "dev", "run", "tmp", "var"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(folder)
    return file.getvalue()


def _needed(member):
    return None if LEFT_OUT & set(Path(member.name).parts) else member


def _libraries(*programs):
    """Return the file of each shared library that programs load, and that wheels do."""
    told = "".join(subprocess.run(["ldd", path], capture_output=True, text=True).stdout for path in programs)
    cache = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"(?m)^\s(\S+) => (/\S+)", told))
    known = dict(reversed(re.findall(r"(?m)^\s(\S+) .*x86-64.* => (/\S+)", cache)))
    return found | {name: known[name] for name in WHEELS_NEED}


def _loader(program):
    (path,) = re.findall(
        r"(?m)^\s(/\S*ld-linux\S*)", subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    )
    return Path(path)
