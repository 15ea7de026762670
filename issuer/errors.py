# SPDX-License-Identifier: Apache-2.0
"""Everything that the issuer raises on purpose; `spiffekit.wire.status` maps it to gRPC.

::

    IssuerError
    ├── InvalidRequestError       the request breaks a rule; the message names field and rule
    ├── NotFoundError
    ├── AlreadyExistsError        carries the thing that exists
    ├── NotAuthorizedError        the caller may not do that
    │   ├── NodeDeniedError       a node may not, with the reason SPIRE's API gives it
    │   └── PolicyDeniedError     policy denies it; carries what is recorded of the decision
    ├── EvidenceRejectedError     what a node saw of a workload does not earn the SVID
    ├── NodeRejectedError         a node could not prove itself
    ├── PlatformUnavailableError  what a node runs on cannot be asked about it now
    ├── TooSlowError              the caller did not send in time what was waited for
    ├── FailedPreconditionError   right request, wrong moment
    ├── AuthorityNotReadyError    no authority can sign now
    ├── AuditLogError             database and audit log contradict each other
    └── StoreError                the database failed, or takes no record
"""

from collections.abc import Mapping
from enum import IntEnum


class IssuerError(Exception):
    """The root of all errors of the issuer."""


class InvalidRequestError(IssuerError):
    """The request breaks a rule; the message names the field and the rule."""


class NotFoundError(IssuerError):
    """The thing asked for does not exist."""


class AlreadyExistsError(IssuerError):
    """The thing to be created exists; `existing` is that thing."""

    def __init__(self, message: str, existing: object = None) -> None:
        super().__init__(message)
        self.existing = existing


class NotAuthorizedError(IssuerError):
    """The caller may not do that."""


class DenialReason(IntEnum):
    """Why a node is denied; the numbers are those of spire.api.types.PermissionDeniedDetails."""

    UNKNOWN = 0
    EXPIRED = 1
    NOT_ATTESTED = 2
    NOT_ACTIVE = 3
    BANNED = 4
    MUST_REATTEST = 5


class NodeDeniedError(NotAuthorizedError):
    """A node may not call; `reason` tells it what to do next."""

    def __init__(self, message: str, reason: DenialReason) -> None:
        super().__init__(message)
        self.reason = reason


class PolicyDeniedError(NotAuthorizedError):
    """Policy denies it; `recorded` goes into the audit trail, by whoever handles the call."""

    def __init__(self, message: str, recorded: Mapping[str, object]) -> None:
        super().__init__(message)
        self.recorded = recorded


class EvidenceRejectedError(IssuerError):
    """What a node saw of a workload does not earn the SVID; the message names the field and the rule."""


class NodeRejectedError(IssuerError):
    """A node could not prove itself."""


class PlatformUnavailableError(IssuerError):
    """What a node runs on cannot be asked about it now."""


class TooSlowError(IssuerError):
    """The caller did not send in time what was waited for."""


class FailedPreconditionError(IssuerError):
    """The request is right, and this is not the moment for it."""


class AuthorityNotReadyError(IssuerError):
    """No authority can sign now."""


class AuditLogError(IssuerError):
    """Database and audit log contradict each other: one of them was changed behind our back."""


class StoreError(IssuerError):
    """The database failed, or what has to be recorded cannot be; nothing was changed."""
