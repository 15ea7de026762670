# SPDX-License-Identifier: Apache-2.0
"""Software TPMs: each with its own seeds, and an endorsement certificate of an authority made for it."""

import contextlib
import os
import subprocess
from pathlib import Path

from tests.engines.daemons import daemon
from tests.engines.packages import need

PACKAGES = {
    "swtpm": "swtpm",
    "swtpm_setup": "swtpm-tools",
    "swtpm_localca": "swtpm-tools",
    "tpm2_quote": "tpm2-tools",
}
SETUP = """
create_certs_tool= /usr/bin/swtpm_localca
create_certs_tool_config = {folder}/ca.conf
create_certs_tool_options = {folder}/options
active_pcr_banks = sha256
"""
AUTHORITY = """
statedir = {folder}/ca
signingkey = {folder}/ca/key.pem
issuercert = {folder}/ca/certificate.pem
certserial = {folder}/ca/serial
"""


class Tpm:
    """One that runs: its address, and the certificate of the authority that vouches for it."""

    def __init__(self, folder):
        self.tcti = f"swtpm:path={folder}/socket"
        self.authority = folder / "ca" / "certificate.pem"

    def __call__(self, command, *arguments, cwd):
        """Run a command of tpm2-tools on it, then free its memory."""
        for line in ((f"tpm2_{command}", *arguments), ("tpm2_flushcontext", "-t")):
            environment = os.environ | {"TPM2TOOLS_TCTI": self.tcti}
            done = subprocess.run(line, cwd=cwd, env=environment, capture_output=True, timeout=60)
            assert done.returncode == 0, done.stderr.decode()


@contextlib.contextmanager
def running(folder: Path):
    """A TPM that was just made."""
    need(PACKAGES)
    (folder / "ca").mkdir()
    (folder / "state").mkdir()
    (folder / "options").touch()
    (folder / "ca.conf").write_text(AUTHORITY.format(folder=folder))
    (folder / "setup.conf").write_text(SETUP.format(folder=folder))
    setup = ["swtpm_setup", "--tpm2", "--config", folder / "setup.conf", "--tpmstate", folder / "state"]
    done = subprocess.run([*setup, "--create-ek-cert", "--overwrite"], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    command = [
        *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}/state"),
        *(
            "--server",
            f"type=unixio,path={folder}/socket",
            "--ctrl",
            f"type=unixio,path={folder}/socket.ctrl",
        ),
        *("--flags", "not-need-init,startup-clear"),
    ]
    with daemon(command, listens=(folder / "socket.ctrl").exists, log=folder / "log"):
        yield Tpm(folder)
