from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class SignProofRequest(_message.Message):
    __slots__ = ("audience", "spiffe_id", "lifetime", "ath", "tth", "oth")
    class OthEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_FIELD_NUMBER: _ClassVar[int]
    ATH_FIELD_NUMBER: _ClassVar[int]
    TTH_FIELD_NUMBER: _ClassVar[int]
    OTH_FIELD_NUMBER: _ClassVar[int]
    audience: str
    spiffe_id: str
    lifetime: int
    ath: str
    tth: str
    oth: _containers.ScalarMap[str, str]
    def __init__(self, audience: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., lifetime: _Optional[int] = ..., ath: _Optional[str] = ..., tth: _Optional[str] = ..., oth: _Optional[_Mapping[str, str]] = ...) -> None: ...

class SignProofResponse(_message.Message):
    __slots__ = ("wit_svid", "proof")
    WIT_SVID_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    wit_svid: str
    proof: str
    def __init__(self, wit_svid: _Optional[str] = ..., proof: _Optional[str] = ...) -> None: ...
