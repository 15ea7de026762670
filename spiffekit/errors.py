# SPDX-License-Identifier: Apache-2.0
"""Everything that `spiffekit` raises on purpose.

::

    SpiffeError
    ├── SpiffeIdError (ValueError too)      an ID, trust domain or path breaks SPIFFE-ID §2
    ├── SelectorError (ValueError too)      a selector is not of the form type:value
    ├── TemplateError (ValueError too)      a template is malformed, or a workload lacks what it takes
    ├── EvidenceError                       evidence is malformed
    ├── UnsupportedKeyError                 a key is of a kind or size we do not accept
    ├── AddressError (ValueError too)       an endpoint address breaks Workload_Endpoint §4
    ├── BundleError                         a bundle is malformed
    ├── StatusError                         a revocation list or status snapshot is malformed
    ├── PolicyError                         a policy or policy bundle is malformed, or breaks the schema
    ├── PolicyEngineError                   policies cannot be evaluated: there is no engine
    ├── ConstraintError                     a constraint of a tool's argument is malformed
    ├── LogFormatError                      a part of a transparency log is malformed
    ├── SvidError                           an SVID is malformed
    │   ├── X509SvidError
    │   ├── JwtSvidError
    │   └── WitSvidError                    or the proof that comes with it
    ├── VerificationError                   well-formed, but not to be trusted
    │   ├── UnknownTrustDomainError         no bundle for its trust domain
    │   ├── UntrustedError                  no authority of that bundle vouches for it
    │   ├── ExpiredError                    outside its validity
    │   ├── AudienceError                   meant for somebody else
    │   ├── ReplayedError                   a proof that was here before
    │   ├── RevokedError                    taken back, or its agent is suspended or retired
    │   ├── StatusUnknownError              nobody knows now whether it was taken back
    │   ├── PolicyUnknownError              nobody knows now which policies hold
    │   ├── UnauthorizedPeerError           trusted, but not the peer that we talk to
    │   ├── NotNarrowerError                it may permit more than what it is derived from
    │   ├── NotPermittedError               an invocation that no constraint permits
    │   └── LogMismatchError                what a log shows does not follow from what it signed
    ├── WorkloadApiError                    the Workload API refused for good
    │   └── WorkloadApiRejectedError        … what it was given, and not the call as such
    └── WorkloadApiUnavailableError         the Workload API cannot answer now; try again
        └── NoIdentityIssuedError           it grants nothing to this process, or no longer does

The split is by what the catcher does: malformed input is refused, untrusted input is refused and
worth an alarm, an unavailable peer is asked again.
"""


class SpiffeError(Exception):
    """The root of all errors of this library."""


class SpiffeIdError(SpiffeError, ValueError):
    """A SPIFFE ID, trust domain name or path breaks SPIFFE-ID §2."""


class SelectorError(SpiffeError, ValueError):
    """A selector is not of the form ``type:value``."""


class TemplateError(SpiffeError, ValueError):
    """A template of a SPIFFE ID is malformed, or cannot be expanded for a workload."""


class EvidenceError(SpiffeError):
    """Evidence is malformed."""


class UnsupportedKeyError(SpiffeError):
    """A key is of a kind, curve or size that we do not accept."""


class AddressError(SpiffeError, ValueError):
    """An endpoint address breaks Workload_Endpoint §4, or there is none."""


class BundleError(SpiffeError):
    """A trust bundle is malformed."""


class StatusError(SpiffeError):
    """A certificate revocation list or a status snapshot is malformed."""


class PolicyError(SpiffeError):
    """A policy, or a bundle of policies, is malformed or does not fit the schema."""


class PolicyEngineError(SpiffeError):
    """Policies cannot be evaluated here, because the engine is not installed."""


class ConstraintError(SpiffeError):
    """A constraint of a tool's argument, or a value to judge by it, is malformed or beyond a limit."""


class LogFormatError(SpiffeError):
    """A checkpoint, signature, tile, entry or proof of a transparency log is malformed."""


class SvidError(SpiffeError):
    """An SVID is malformed."""


class X509SvidError(SvidError):
    """An X.509-SVID breaks X509-SVID §2 to §4, or key and leaf do not fit."""


class JwtSvidError(SvidError):
    """A JWT-SVID breaks JWT-SVID §2 to §4."""


class WitSvidError(SvidError):
    """A WIT-SVID breaks WIT-SVID §2 to §4, or the proof beside it is malformed."""


class VerificationError(SpiffeError):
    """It is well-formed, but not to be trusted."""


class UnknownTrustDomainError(VerificationError):
    """There is no bundle for the trust domain in question."""


class UntrustedError(VerificationError):
    """No authority of the trust domain's own bundle vouches for it."""


class ExpiredError(VerificationError):
    """It is outside its validity."""


class AudienceError(VerificationError):
    """It is meant for somebody else."""


class ReplayedError(VerificationError):
    """The proof was here before, or nobody can tell any more whether it was."""


class RevokedError(VerificationError):
    """It was taken back, or the agent that it names is suspended or retired."""


class StatusUnknownError(VerificationError):
    """What is known of revocations is too old, or older than what was known before."""


class PolicyUnknownError(VerificationError):
    """What is known of policies is too old, or older than what was known before."""


class UnauthorizedPeerError(VerificationError):
    """The peer is who it says, but not whom we want to talk to."""


class NotNarrowerError(VerificationError):
    """What was derived may permit more than what it was derived from."""


class NotPermittedError(VerificationError):
    """A tool may not be used, or not with these arguments."""


class LogMismatchError(VerificationError):
    """A signature, proof or entry of a transparency log does not fit what the log is known to be."""


class WorkloadApiError(SpiffeError):
    """The Workload API refused in a way that trying again cannot mend."""


class WorkloadApiRejectedError(WorkloadApiError):
    """The Workload API cannot take what it was given (INVALID_ARGUMENT); something else it may."""


class WorkloadApiUnavailableError(SpiffeError):
    """The Workload API cannot answer now; trying again may help."""


class NoIdentityIssuedError(WorkloadApiUnavailableError):
    """The Workload API grants nothing to this process now: what it granted before must not be used."""
