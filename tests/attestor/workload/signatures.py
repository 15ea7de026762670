# SPDX-License-Identifier: Apache-2.0
"""Images that are signed, for whoever knows containers."""

import json

from cryptography.hazmat.primitives import serialization

from attestor.workload.image_signatures import Config
from attestor.workload.image_signers import Signer
from tests.fakes.sigstore import keyed, new_key, statement

SIGNED = {"image-signature:verified", "image-signed-by:ci"}


def signed(folder, digest):
    """The configuration of somebody in whose folder the image of that digest is signed by "ci"."""
    key = new_key()
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    folder.joinpath("ci.pem").write_bytes(public)
    name = digest.replace(":", "-")
    folder.joinpath(f"{name}.jsonl").write_text(json.dumps(keyed(key, statement(digest))) + "\n")
    return Config(folder=folder, signers={"ci": Signer(public_key=folder / "ci.pem")})


def of_signatures(facts):
    """What is stated of signatures, without the type."""
    kinds = ("image-sign", "image-attest", "image-builder", "image-source", "image-slsa")
    return {s.value for s in facts.selectors if s.value.startswith(kinds)}
