from spiffekit.wire.pb.issuer.v1 import updates_pb2 as _updates_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RevokeRequest(_message.Message):
    __slots__ = ("serial", "jti", "spiffe_id", "before", "reason")
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    JTI_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    serial: str
    jti: str
    spiffe_id: str
    before: int
    reason: str
    def __init__(self, serial: _Optional[str] = ..., jti: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., before: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class Revoked(_message.Message):
    __slots__ = ("kind", "key", "spiffe_id", "at", "until", "reason")
    KIND_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    kind: str
    key: str
    spiffe_id: str
    at: int
    until: int
    reason: str
    def __init__(self, kind: _Optional[str] = ..., key: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., at: _Optional[int] = ..., until: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class ListRevokedRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListRevokedResponse(_message.Message):
    __slots__ = ("revoked", "next_page_token")
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    revoked: _containers.RepeatedCompositeFieldContainer[Revoked]
    next_page_token: str
    def __init__(self, revoked: _Optional[_Iterable[_Union[Revoked, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CertifyRetirementRequest(_message.Message):
    __slots__ = ("spiffe_id",)
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    def __init__(self, spiffe_id: _Optional[str] = ...) -> None: ...

class WithdrawAuthorityRequest(_message.Message):
    __slots__ = ("authority_id", "reason")
    AUTHORITY_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    authority_id: str
    reason: str
    def __init__(self, authority_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class WithdrawAuthorityResponse(_message.Message):
    __slots__ = ("sequence_number",)
    SEQUENCE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    sequence_number: int
    def __init__(self, sequence_number: _Optional[int] = ...) -> None: ...

class RetirementCertificate(_message.Message):
    __slots__ = ("token", "spiffe_id", "retired_at", "outstanding", "fully_dead_at")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    RETIRED_AT_FIELD_NUMBER: _ClassVar[int]
    OUTSTANDING_FIELD_NUMBER: _ClassVar[int]
    FULLY_DEAD_AT_FIELD_NUMBER: _ClassVar[int]
    token: str
    spiffe_id: str
    retired_at: int
    outstanding: _containers.RepeatedCompositeFieldContainer[OutstandingCredential]
    fully_dead_at: int
    def __init__(self, token: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., retired_at: _Optional[int] = ..., outstanding: _Optional[_Iterable[_Union[OutstandingCredential, _Mapping]]] = ..., fully_dead_at: _Optional[int] = ...) -> None: ...

class OutstandingCredential(_message.Message):
    __slots__ = ("kind", "id", "expires_at", "audience")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    kind: str
    id: str
    expires_at: int
    audience: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, kind: _Optional[str] = ..., id: _Optional[str] = ..., expires_at: _Optional[int] = ..., audience: _Optional[_Iterable[str]] = ...) -> None: ...
