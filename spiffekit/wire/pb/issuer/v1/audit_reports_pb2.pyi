from spiffekit.wire.pb.attestor.v1 import verifications_pb2 as _verifications_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReportRequest(_message.Message):
    __slots__ = ("boot", "events", "ended")
    BOOT_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    boot: bytes
    events: _containers.RepeatedCompositeFieldContainer[ReportedEvent]
    ended: int
    def __init__(self, boot: _Optional[bytes] = ..., events: _Optional[_Iterable[_Union[ReportedEvent, _Mapping]]] = ..., ended: _Optional[int] = ...) -> None: ...

class ReportedEvent(_message.Message):
    __slots__ = ("number", "at", "process", "started", "fetched", "refused", "posture_changed", "omitted", "verified")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    FETCHED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    POSTURE_CHANGED_FIELD_NUMBER: _ClassVar[int]
    OMITTED_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    number: int
    at: int
    process: ReportedProcess
    started: AttestorStarted
    fetched: SvidFetched
    refused: SvidRefused
    posture_changed: PostureChanged
    omitted: EventsOmitted
    verified: PeerVerified
    def __init__(self, number: _Optional[int] = ..., at: _Optional[int] = ..., process: _Optional[_Union[ReportedProcess, _Mapping]] = ..., started: _Optional[_Union[AttestorStarted, _Mapping]] = ..., fetched: _Optional[_Union[SvidFetched, _Mapping]] = ..., refused: _Optional[_Union[SvidRefused, _Mapping]] = ..., posture_changed: _Optional[_Union[PostureChanged, _Mapping]] = ..., omitted: _Optional[_Union[EventsOmitted, _Mapping]] = ..., verified: _Optional[_Union[PeerVerified, _Mapping]] = ...) -> None: ...

class ReportedProcess(_message.Message):
    __slots__ = ("pid", "uid", "path", "sha256")
    PID_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    pid: int
    uid: int
    path: str
    sha256: str
    def __init__(self, pid: _Optional[int] = ..., uid: _Optional[int] = ..., path: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...

class AttestorStarted(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: str
    def __init__(self, version: _Optional[str] = ...) -> None: ...

class SvidFetched(_message.Message):
    __slots__ = ("spiffe_id", "kind", "serial", "jti", "token_sha256", "expires_at", "entry_id", "instance_uid", "audience")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    JTI_FIELD_NUMBER: _ClassVar[int]
    TOKEN_SHA256_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_UID_FIELD_NUMBER: _ClassVar[int]
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    kind: str
    serial: str
    jti: str
    token_sha256: str
    expires_at: int
    entry_id: str
    instance_uid: str
    audience: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, spiffe_id: _Optional[str] = ..., kind: _Optional[str] = ..., serial: _Optional[str] = ..., jti: _Optional[str] = ..., token_sha256: _Optional[str] = ..., expires_at: _Optional[int] = ..., entry_id: _Optional[str] = ..., instance_uid: _Optional[str] = ..., audience: _Optional[_Iterable[str]] = ...) -> None: ...

class SvidRefused(_message.Message):
    __slots__ = ("reason", "call")
    REASON_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    reason: str
    call: str
    def __init__(self, reason: _Optional[str] = ..., call: _Optional[str] = ...) -> None: ...

class PostureChanged(_message.Message):
    __slots__ = ("entry_ids", "gone", "new")
    ENTRY_IDS_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    NEW_FIELD_NUMBER: _ClassVar[int]
    entry_ids: _containers.RepeatedScalarFieldContainer[str]
    gone: _containers.RepeatedScalarFieldContainer[str]
    new: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, entry_ids: _Optional[_Iterable[str]] = ..., gone: _Optional[_Iterable[str]] = ..., new: _Optional[_Iterable[str]] = ...) -> None: ...

class EventsOmitted(_message.Message):
    __slots__ = ("lost", "refusals")
    LOST_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    lost: int
    refusals: int
    def __init__(self, lost: _Optional[int] = ..., refusals: _Optional[int] = ...) -> None: ...

class PeerVerified(_message.Message):
    __slots__ = ("verifier", "entry_id", "run", "missing", "verification")
    VERIFIER_FIELD_NUMBER: _ClassVar[int]
    ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    VERIFICATION_FIELD_NUMBER: _ClassVar[int]
    verifier: str
    entry_id: str
    run: bytes
    missing: int
    verification: _verifications_pb2.Verification
    def __init__(self, verifier: _Optional[str] = ..., entry_id: _Optional[str] = ..., run: _Optional[bytes] = ..., missing: _Optional[int] = ..., verification: _Optional[_Union[_verifications_pb2.Verification, _Mapping]] = ...) -> None: ...

class ReportResponse(_message.Message):
    __slots__ = ("recorded",)
    RECORDED_FIELD_NUMBER: _ClassVar[int]
    recorded: int
    def __init__(self, recorded: _Optional[int] = ...) -> None: ...
