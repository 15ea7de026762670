# SPDX-License-Identifier: Apache-2.0
"""Mint an X.509-SVID by hand, for what cannot be attested."""

import os
from pathlib import Path

import click

from issuer.cli.options import SECONDS, SPIFFE_ID, socket_option
from spiffekit.daemon.terminal import output_option, print_json
from spiffekit.id import SpiffeId


@click.group("x509")
def group() -> None:
    """X.509-SVIDs by hand."""


@group.command()
@click.option("--spiffeID", "spiffe_id", type=SPIFFE_ID, required=True, help="The identity.")
@click.option("--dns", "dns_names", multiple=True, help="A DNS name; may be given several times.")
@click.option("--ttl", type=SECONDS, default=0, help="Lifetime; the issuer's default if left out.")
@click.option(
    "--write",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write svid.pem, key.pem and bundle.pem there.",
)
@socket_option
@output_option
def mint(
    spiffe_id: SpiffeId, dns_names: tuple[str, ...], ttl: int, folder: Path | None, socket: Path, output: str
) -> None:
    """Make a key and an X.509-SVID for it. The key stays here."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    from issuer.client import DEADLINE, connect
    from spiffekit.wire.convert import bundle_from_proto
    from spiffekit.wire.pb.spire.api.server.bundle.v1 import bundle_pb2
    from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2

    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(spiffe_id))]
    names += [x509.DNSName(name) for name in dns_names]
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    csr = request.public_bytes(serialization.Encoding.DER)
    with connect(socket) as api:
        answer = api.svids.MintX509SVID(svid_pb2.MintX509SVIDRequest(csr=csr, ttl=ttl), timeout=DEADLINE)
        bundle = bundle_from_proto(api.bundles.GetBundle(bundle_pb2.GetBundleRequest(), timeout=DEADLINE))
    chain = b"".join(
        x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
        for der in answer.svid.cert_chain
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    if folder is not None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, content, mode in (
            ("svid.pem", chain, 0o644),
            ("key.pem", key_pem, 0o600),
            ("bundle.pem", bundle.to_pem(), 0o644),
        ):
            _write(folder / name, content, mode)
            click.echo(f"{name} written to {folder / name}", err=output == "json")
    elif output == "json":
        print_json({"svid": chain.decode(), "key": key_pem.decode(), "bundle": bundle.to_pem().decode()})
    else:
        click.echo(f"X509-SVID:\n{chain.decode()}\nPrivate key:\n{key_pem.decode()}\nRoot CAs:")
        click.echo(bundle.to_pem().decode())


def _write(path: Path, content: bytes, mode: int) -> None:
    # Created with its mode: a key must not be readable for even a moment.
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
