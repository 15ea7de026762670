# SPDX-License-Identifier: Apache-2.0
"""Selectors: one fact each about a workload or a node, of the form ``type:value``."""

import re
from dataclasses import dataclass
from typing import Final, Self

from spiffekit.errors import SelectorError

MAX_TYPE_BYTES: Final = 64  # bytes
DECLARED: Final = ":declared:"  # within a value: a workload could forge what follows
MAX_VALUE_BYTES: Final = 8192  # bytes of UTF-8; a label or an environment variable fits, a flood does not

_NUMBER: Final = re.compile(r"[0-9]+", re.ASCII)
_PATH: Final = re.compile(r"/.+")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_PATH_OF_USER: Final = re.compile(r"[0-9]+:/.+", re.ASCII)  # uid:path
_SHA256_OF_USER: Final = re.compile(r"[0-9]+:[0-9a-f]{64}", re.ASCII)
_INODE: Final = re.compile(r"[0-9]+:[0-9]+", re.ASCII)  # device:inode
_UNIT: Final = re.compile(r"[^/\s]+\.[a-z]+")  # with its type, e.g. web.service
_SLUID: Final = re.compile(r"s[0-9A-Za-z]+", re.ASCII)
_STEP: Final = re.compile(r"[0-9]+(\+[0-9]+)?|[a-z]+", re.ASCII)
_HEX: Final = re.compile(r"[0-9a-f]+")
_ANY: Final = re.compile(r".+")
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]+={0,2}", re.ASCII)
_VERIFIED: Final = re.compile(r"verified")
_LABEL: Final = re.compile(r"[^:]+:.*")
_VARIABLE: Final = re.compile(r"[^=]+=.*")
_AZURE: Final = re.compile(r"[\w.()-]{1,90}")  # a resource, which has no colon in its name
_AZURE_WITHIN: Final = re.compile(r"[\w.()-]{1,90}:[\w.()-]{1,90}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_CONTAINER: Final = {
    "label": _LABEL,
    "env": _VARIABLE,
    "name": _ANY,
    "image_id": _ANY,
    "image_config_digest": _DIGEST,
    "image_digest": _DIGEST,
}
IMAGE_SIGNATURES: Final = {
    "image-signature": _VERIFIED,
    "image-signature-subject": _ANY,
    "image-signature-issuer": _ANY,
    "image-signature-value": _BASE64,
    "image-signature-log-id": _SHA256,
    "image-signature-log-index": _NUMBER,
    "image-signature-integrated-time": _NUMBER,
    "image-signature-signed-entry-timestamp": _BASE64,
    "image-signed-by": _NAME,
    "image-attestations": _VERIFIED,
    "image-attested-by": _NAME,
    "image-builder": _ANY,
    "image-source": _ANY,
    "image-slsa-level": re.compile(r"[1-3]"),
}
"""Kinds of fact about the signatures of a container's image, of every type that knows containers."""

KINDS: Final = {
    "unix": {
        "uid": _NUMBER,
        "gid": _NUMBER,
        "user": _ANY,
        "group": _ANY,
        "supplementary_gid": _NUMBER,
        "supplementary_group": _ANY,
        "path": _PATH,
        "sha256": _SHA256,
        "inode": _INODE,
        "parent:uid": _NUMBER,
        "parent:path": _PATH,
        "parent:sha256": _SHA256,
        "ancestor:path": _PATH_OF_USER,
        "ancestor:sha256": _SHA256_OF_USER,
        "declared:cmdline": _ANY,
    },
    "docker": _CONTAINER | IMAGE_SIGNATURES,
    "podman": _CONTAINER
    | IMAGE_SIGNATURES
    | {"user": re.compile(rf"[1-9][0-9]*:(?:{'|'.join(_CONTAINER)}):.+")},
    "script": {
        "path": _PATH,
        "sha256": _SHA256,
        "inode": _INODE,
        "declared:path": _PATH,
        "declared:sha256": _SHA256,
        "declared:venv": _PATH,
        "declared:lock-sha256": _SHA256,
        "declared:charter-sha256": _SHA256,
    },
    "systemd": {"id": _UNIT, "fragment_path": _PATH},
    "slurm": {"job_id": _NUMBER, "sluid": _SLUID, "step": _STEP},
    "aws_iid": {
        "account_id": re.compile(r"[0-9]{12}", re.ASCII),
        "region": _ANY,
        "az": _ANY,
        "instance:id": re.compile(r"i-[0-9a-f]+"),
        "image:id": _ANY,
        "tag": _LABEL,
        "sg:id": re.compile(r"sg-[0-9a-f]+"),
        "sg:name": _ANY,
        "iamrole": re.compile(r"arn:[a-z-]+:iam::[0-9]{12}:role/.+", re.ASCII),
    },
    "azure_imds": {
        "subscription-id": re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
        "vm-name": _AZURE,
        "vm-location": _AZURE,
        "vm-tag": _LABEL,
        "vmss-name": _AZURE,
        "resource-group": _AZURE,
        "network-security-group": _AZURE_WITHIN,
        "virtual-network-subnet": _AZURE_WITHIN,
        "virtual-network": _AZURE,
    },
    "gcp_iit": {
        "project-id": _ANY,
        "zone": _ANY,
        "instance-name": _ANY,
        "sa": _ANY,
        "tag": _ANY,
        "label": _LABEL,
        "metadata": _LABEL,
    },
    "http_challenge": {"hostname": _ANY},
    "sshpop": {"hostname": _ANY},
    "k8s": IMAGE_SIGNATURES
    | {
        "ns": _ANY,
        "ns-label": _LABEL,
        "sa": _ANY,
        "container-image": _ANY,
        "container-name": _ANY,
        "node-name": _ANY,
        "pod-label": _LABEL,
        "pod-owner": _LABEL,
        "pod-owner-uid": _LABEL,
        "pod-uid": _ANY,
        "pod-name": _ANY,
        "pod-image": _ANY,
        "pod-image-count": _NUMBER,
        "pod-init-image": _ANY,
        "pod-init-image-count": _NUMBER,
    },
    "k8s_psat": {
        "cluster": _ANY,
        "agent_ns": _ANY,
        "agent_sa": _ANY,
        "agent_pod_name": _ANY,
        "agent_pod_uid": _ANY,
        "agent_pod_label": _LABEL,
        "agent_node_ip": _ANY,
        "agent_node_name": _ANY,
        "agent_node_uid": _ANY,
        "agent_node_label": _LABEL,
    },
    "cri": IMAGE_SIGNATURES
    | {
        "label": _LABEL,
        "image": _ANY,
        "image_id": re.compile(r"(?:[^@]+@)?sha256:[0-9a-f]{64}"),
        "container-name": _ANY,
        "pod-name": _ANY,
        "pod-namespace": _ANY,
        "pod-uid": _ANY,
        "pod-label": _LABEL,
    },
    "tpm_devid": {"subject:cn": _ANY, "issuer:cn": _ANY, "ca:fingerprint": _HEX},
    "tpm_ek": {
        "ek-hash": _SHA256,
        "manufacturer": re.compile(r"[0-9A-F]{8}"),
        "pcr": re.compile(r"sha(?:1|256|384|512):[0-9]{1,2}:[0-9a-f]{40,128}"),
    },
    "x509pop": {"subject:cn": _ANY, "ca:fingerprint": _HEX, "serialnumber": _HEX, "san": _LABEL},
}
"""The kinds of fact that our own attestors state, by type, and the form of their values."""

_TYPE: Final = re.compile(r"[a-zA-Z0-9_.-]+", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Selector:
    """A fact: `type` is the attestor that stated it, `value` what it found. Never equal to a `str`.

    Raises:
        SelectorError: The type has other characters than letters, digits, '_', '.' and '-', or
            type or value is empty or over-long, or the value has a control character or is not UTF-8.
    """

    type: str
    value: str

    def __post_init__(self) -> None:
        if not _TYPE.fullmatch(self.type) or len(self.type) > MAX_TYPE_BYTES:
            raise SelectorError(f"invalid selector type {self.type[:MAX_TYPE_BYTES]!r}")
        if not self.value:
            raise SelectorError(f"selector of type {self.type!r} has no value")
        try:
            size = len(self.value.encode("utf-8"))
        except UnicodeEncodeError as error:  # a file name, say, whose bytes are no UTF-8
            raise SelectorError(f"selector of type {self.type!r} cannot be written as UTF-8") from error
        if size > MAX_VALUE_BYTES:
            raise SelectorError(f"selector of type {self.type!r} is longer than {MAX_VALUE_BYTES} bytes")
        if any(ord(character) < 0x20 or ord(character) == 0x7F for character in self.value):
            raise SelectorError(f"selector of type {self.type!r} has a control character")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``type:value``; the value may hold further colons.

        Raises:
            SelectorError: There is no colon, or a part is invalid.
        """
        kind, colon, value = text.partition(":")
        if not colon:
            raise SelectorError(f"selector {text[:80]!r} is not of the form type:value")
        return cls(kind, value)

    def __str__(self) -> str:
        return f"{self.type}:{self.value}"


def typo(selector: Selector) -> str | None:
    """Say why no attestor of ours would ever state `selector`; None if one might, or its type is not ours."""
    kinds = KINDS.get(selector.type)
    if kinds is None:
        return None
    for kind, form in kinds.items():
        if selector.value.startswith(f"{kind}:"):
            value = selector.value[len(kind) + 1 :]
            return None if form.fullmatch(value) else f"selector {selector}: {kind} has another form of value"
    return f"selector {selector}: not a kind of {selector.type!r}, which knows {', '.join(kinds)}"
