from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReportVerificationsRequest(_message.Message):
    __slots__ = ("run", "verifications", "taken", "spiffe_id")
    RUN_FIELD_NUMBER: _ClassVar[int]
    VERIFICATIONS_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    run: bytes
    verifications: _containers.RepeatedCompositeFieldContainer[Verification]
    taken: int
    spiffe_id: str
    def __init__(self, run: _Optional[bytes] = ..., verifications: _Optional[_Iterable[_Union[Verification, _Mapping]]] = ..., taken: _Optional[int] = ..., spiffe_id: _Optional[str] = ...) -> None: ...

class Verification(_message.Message):
    __slots__ = ("number", "kind", "allowed", "reason", "peer", "serial", "jti", "txn", "action", "count", "bundle", "policies")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    JTI_FIELD_NUMBER: _ClassVar[int]
    TXN_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    number: int
    kind: str
    allowed: bool
    reason: str
    peer: str
    serial: str
    jti: str
    txn: str
    action: str
    count: int
    bundle: str
    policies: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, number: _Optional[int] = ..., kind: _Optional[str] = ..., allowed: _Optional[bool] = ..., reason: _Optional[str] = ..., peer: _Optional[str] = ..., serial: _Optional[str] = ..., jti: _Optional[str] = ..., txn: _Optional[str] = ..., action: _Optional[str] = ..., count: _Optional[int] = ..., bundle: _Optional[str] = ..., policies: _Optional[_Iterable[str]] = ...) -> None: ...

class ReportVerificationsResponse(_message.Message):
    __slots__ = ("taken",)
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    taken: int
    def __init__(self, taken: _Optional[int] = ...) -> None: ...
