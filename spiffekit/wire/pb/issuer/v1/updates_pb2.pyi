from spiffekit.wire.pb.spire.api import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WatchRequest(_message.Message):
    __slots__ = ("revision", "epoch", "policies")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    revision: int
    epoch: str
    policies: int
    def __init__(self, revision: _Optional[int] = ..., epoch: _Optional[str] = ..., policies: _Optional[int] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("revision", "epoch", "snapshot", "more", "entries", "removed_entry_ids", "bundles", "removed_bundles", "tainted_x509_authorities", "tainted_jwt_authorities", "heartbeat", "revocations", "policies")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    REMOVED_ENTRY_IDS_FIELD_NUMBER: _ClassVar[int]
    BUNDLES_FIELD_NUMBER: _ClassVar[int]
    REMOVED_BUNDLES_FIELD_NUMBER: _ClassVar[int]
    TAINTED_X509_AUTHORITIES_FIELD_NUMBER: _ClassVar[int]
    TAINTED_JWT_AUTHORITIES_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    REVOCATIONS_FIELD_NUMBER: _ClassVar[int]
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    revision: int
    epoch: str
    snapshot: bool
    more: bool
    entries: _containers.RepeatedCompositeFieldContainer[_types_pb2.Entry]
    removed_entry_ids: _containers.RepeatedScalarFieldContainer[str]
    bundles: _containers.RepeatedCompositeFieldContainer[_types_pb2.Bundle]
    removed_bundles: _containers.RepeatedScalarFieldContainer[str]
    tainted_x509_authorities: _containers.RepeatedScalarFieldContainer[str]
    tainted_jwt_authorities: _containers.RepeatedScalarFieldContainer[str]
    heartbeat: bool
    revocations: Revocations
    policies: Policies
    def __init__(self, revision: _Optional[int] = ..., epoch: _Optional[str] = ..., snapshot: _Optional[bool] = ..., more: _Optional[bool] = ..., entries: _Optional[_Iterable[_Union[_types_pb2.Entry, _Mapping]]] = ..., removed_entry_ids: _Optional[_Iterable[str]] = ..., bundles: _Optional[_Iterable[_Union[_types_pb2.Bundle, _Mapping]]] = ..., removed_bundles: _Optional[_Iterable[str]] = ..., tainted_x509_authorities: _Optional[_Iterable[str]] = ..., tainted_jwt_authorities: _Optional[_Iterable[str]] = ..., heartbeat: _Optional[bool] = ..., revocations: _Optional[_Union[Revocations, _Mapping]] = ..., policies: _Optional[_Union[Policies, _Mapping]] = ...) -> None: ...

class Revocations(_message.Message):
    __slots__ = ("status", "crls")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CRLS_FIELD_NUMBER: _ClassVar[int]
    status: str
    crls: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, status: _Optional[str] = ..., crls: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Policies(_message.Message):
    __slots__ = ("number", "bundle")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    number: int
    bundle: str
    def __init__(self, number: _Optional[int] = ..., bundle: _Optional[str] = ...) -> None: ...
