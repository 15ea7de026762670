# SPDX-License-Identifier: Apache-2.0
"""More targets: the structures of a TPM, and the payloads that have them."""

import base64
import hashlib
import json

from cryptography.hazmat.primitives.serialization import Encoding

from issuer.node import tpm
from issuer.node.chains import Authorities
from issuer.node.tpm_devid import TpmDevIdVerifier
from issuer.node.tpm_ek import Config, create
from tests.fuzz.wire_targets import MACHINES, prove
from tests.issuer.node import tpm_structures as made

EK, AK = made.endorsement(made.EC_KEY), made.signing(made.EC_KEY)
LISTED = create(Config(ek_hashes=(hashlib.sha256(EK).hexdigest(),)))


def endorsement_key(data):
    assert made.endorsement(tpm.endorsement_key(data).key) == data


def attestation_key(data):
    assert tpm.attestation_key(data).area == data


def device_key(data):
    assert tpm.device_key(data).area == data


def quote(data):
    assert set(tpm.quote(data).pcrs) <= set(range(tpm.PCRS))


def certification(data):
    assert tpm.certified_name(data) in data


def signature(data):
    tpm.verify_signature(made.EC_KEY.public_key(), data, b"signed")


def tpm_ek(data):
    prove(LISTED, data)


def tpm_devid(data):
    known = Authorities([MACHINES.certificate])
    prove(TpmDevIdVerifier(known, known), data)


def text(data):
    return base64.b64encode(data).decode()


CERTIFICATION = made.certification(tpm.device_key(AK).name)
CERTIFICATE = text(
    MACHINES.certify(made.EC_KEY.public_key(), uris=[], purposes=()).public_bytes(Encoding.DER)
)
DEVICE = {
    "DevIDCert": [CERTIFICATE], "DevIDPub": text(AK),
    "EKCert": CERTIFICATE, "EKPub": text(EK), "AKPub": text(AK),
    "CertifiedDevID": text(CERTIFICATION),
    "CertificationSignature": text(made.signature(made.EC_KEY, CERTIFICATION)),
}  # fmt: skip
SEEDS = {
    tpm_devid: json.dumps(DEVICE).encode(),
    endorsement_key: EK,
    attestation_key: AK,
    device_key: AK,
    quote: made.quote(),
    certification: made.certification(b"\0\x0b" + b"n" * 32),
    signature: made.signature(made.EC_KEY, b"signed"),
    tpm_ek: json.dumps({"ek_public": text(made.sized(EK)), "ak_public": text(made.sized(AK))}).encode(),
}
