# SPDX-License-Identifier: Apache-2.0
"""Everything that the attestor raises on purpose; `spiffekit.wire.status` maps it to gRPC.

::

    AttestorError
    ├── NodeAttestationError         this node could not prove itself
    ├── NodeBannedError              the issuer banned this node; nothing can mend that from here
    ├── MustReattestError            the issuer no longer knows our SVID; prove the node again
    ├── WorkloadAttestationError     a process could not be examined
    ├── SignatureRejectedError       what is said of an image cannot be believed
    ├── NoIdentityError              no entry matches the caller
    ├── IssuerUnavailableError       the issuer cannot be reached or cannot answer now
    │   └── WitUnsupportedError      it signs no WIT-SVIDs
    ├── ReportRejectedError          the issuer will never take what it was told for its audit trail
    ├── IssuerUntrustedError         whoever answers there is not our issuer
    ├── StateError                   what has to outlive a restart cannot be written
    └── PeerGoneError                the caller has exited, or cannot be identified
"""


class AttestorError(Exception):
    """The root of all errors of the attestor."""


class NodeAttestationError(AttestorError):
    """This node could not prove itself."""


class NodeBannedError(AttestorError):
    """The issuer banned this node."""


class MustReattestError(AttestorError):
    """The issuer no longer accepts our SVID; the node has to be proved again."""


class WorkloadAttestationError(AttestorError):
    """A process could not be examined."""


class SignatureRejectedError(AttestorError):
    """What is said of an image is malformed, not signed by anybody known, or about something else."""


class NoIdentityError(AttestorError):
    """No entry matches the caller."""


class IssuerUnavailableError(AttestorError):
    """The issuer cannot be reached, or cannot answer now; try again."""


class WitUnsupportedError(IssuerUnavailableError):
    """The issuer signs no WIT-SVIDs: a stock server, or one where they are switched off."""


class ReportRejectedError(AttestorError):
    """The issuer will never take what it was told for its audit trail."""


class IssuerUntrustedError(AttestorError):
    """Whoever answers at the issuer's address is not our issuer."""


class StateError(AttestorError):
    """What has to outlive a restart cannot be written; try again."""


class PeerGoneError(AttestorError):
    """The caller has exited, or cannot be identified."""
