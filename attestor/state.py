# SPDX-License-Identifier: Apache-2.0
"""What the attestor remembers over a restart: the node's SVID, the bundle, and how to renew."""

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import DecodeError

from attestor.errors import StateError
from spiffekit.bundle import Bundle
from spiffekit.daemon.key_files import private_folder, write_private
from spiffekit.errors import SpiffeError, X509SvidError
from spiffekit.id import TrustDomain
from spiffekit.keys import PrivateKey, private_key_to_der
from spiffekit.wire.convert import bundle_from_proto, bundle_to_proto
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.x509svid import X509Svid

FILE: Final = "state.json"
ROOM: Final = 64 * 1024  # bytes; more than a state has unless it has very many authorities
UNUSABLE: Final = (  # what a damaged file raises
    ValueError, KeyError, TypeError, RecursionError, DecodeError, SpiffeError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class NodeState:
    """The node's SVID with its key, the issuer's bundle, and whether the node can prove itself again."""

    svid: X509Svid
    bundle: Bundle
    reattestable: bool


class StateFile:
    """The state in one file of mode 0600. The key is not in it; the key manager has it."""

    def __init__(self, folder: Path, trust_domain: TrustDomain) -> None:
        self._folder = folder
        self._trust_domain = trust_domain

    def save(self, state: NodeState) -> None:
        """Write the state, whole or not at all."""
        document = {
            "chain": [base64.b64encode(der).decode() for der in state.svid.chain_der],
            "bundle": base64.b64encode(bundle_to_proto(state.bundle).SerializeToString()).decode(),
            "reattestable": state.reattestable,
        }
        write_private(private_folder(self._folder) / FILE, json.dumps(document).encode())

    def require_room(self) -> None:
        """Check that a state can be written, before a proof that counts once is used up for it.

        Raises:
            OSError: It cannot.
        """
        trial = private_folder(self._folder) / f"{FILE}.trial"
        write_private(trial, bytes(ROOM))
        trial.unlink()

    def load(self, keys: Iterable[PrivateKey]) -> NodeState | None:
        """Return the state, or None if there is none that fits one of `keys` and our trust domain.

        Raises:
            StateError: There may be one, and it cannot be read.
        """
        try:
            document = self._document()
            chain = b"".join(base64.b64decode(der, validate=True) for der in document["chain"])
            svid = _fitting(chain, keys)
            state = NodeState(svid, _bundle(document), document["reattestable"] is True)
        except UNUSABLE:
            return None
        return state if svid.spiffe_id.is_member_of(self._trust_domain) else None

    def bundle(self) -> Bundle | None:
        """Return the bundle alone, or None: it counts even if no key fits the SVID any longer.

        Raises:
            StateError: There may be one, and it cannot be read.
        """
        try:
            bundle = _bundle(self._document())
        except UNUSABLE:
            return None
        return bundle if bundle.trust_domain == self._trust_domain else None

    def _document(self) -> Any:
        try:
            return json.loads((private_folder(self._folder) / FILE).read_bytes())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StateError(f"state of the node cannot be read: {error}") from error

    def forget(self) -> None:
        """Remove the state: the issuer does not want this node."""
        (self._folder / FILE).unlink(missing_ok=True)


def _bundle(document: Any) -> Bundle:
    return bundle_from_proto(types_pb2.Bundle.FromString(base64.b64decode(document["bundle"], validate=True)))


def _fitting(chain: bytes, keys: Iterable[PrivateKey]) -> X509Svid:
    error: SpiffeError = X509SvidError("there is no key")
    for key in keys:
        try:
            return X509Svid.parse(chain, private_key_to_der(key))
        except SpiffeError as refusal:
            error = refusal
    raise error
