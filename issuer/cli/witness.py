# SPDX-License-Identifier: Apache-2.0
"""The witness of audit logs, a daemon for another host than the issuer's."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from issuer.cli.options import VERIFIER_KEY

if TYPE_CHECKING:
    from spiffekit.transparency.notes import VerifierKey

_LISTEN = re.compile(r"(?:\[([0-9a-fA-F:]+)\]|([0-9.]+)):([0-9]{1,5})", re.ASCII)


@click.command()
@click.option("--name", required=True, help='Its own name, for ever, e.g. "witness.example.net".')
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    help="Where it keeps its key and what it saw.",
)
@click.option(
    "--log", "logs", type=VERIFIER_KEY, multiple=True, required=True,
    help="Public key of a log, as `issuer audit key` prints it; repeatable.",
)  # fmt: skip
@click.option("--listen", default="127.0.0.1:8090", show_default=True, help="ADDRESS:PORT for requests.")
@click.option(
    "--passphraseFile",
    "passphrase_file",
    type=click.Path(path_type=Path),
    help="Its first line encrypts the key.",
)
def witness(
    name: str, folder: Path, logs: "tuple[VerifierKey, ...]", listen: str, passphrase_file: Path | None
) -> None:
    """Run a witness: it cosigns a log's checkpoints as long as the log only grows."""
    import asyncio

    from issuer.governance.audit_log import load_signer
    from issuer.governance.witness import MAX_BODY, Witness
    from spiffekit.daemon import http_server, logging
    from spiffekit.daemon.clock import SystemClock
    from spiffekit.daemon.http_server import Take
    from spiffekit.daemon.key_files import alone, private_folder
    from spiffekit.daemon.lifecycle import run_until_signalled
    from spiffekit.transparency.notes import KeyUse

    match = _LISTEN.fullmatch(listen)
    if match is None:
        raise click.UsageError(f"--listen: {listen!r} is not ADDRESS:PORT")
    logging.configure("info", "text")
    with alone(private_folder(folder), "witness"):
        signer = load_signer(name, folder / "key", passphrase_file, KeyUse.COSIGNATURE)
        judge = Witness(folder, signer, logs, SystemClock())
        judge.check()
        click.echo(str(signer.key))
        service = http_server.serve(
            match[1] or match[2], int(match[3]), judge.show, post=Take(judge.take, MAX_BODY)
        )
        asyncio.run(run_until_signalled(witness=service))
