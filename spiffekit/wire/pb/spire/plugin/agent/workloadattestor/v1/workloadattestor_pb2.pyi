from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class AttestRequest(_message.Message):
    __slots__ = ("pid",)
    PID_FIELD_NUMBER: _ClassVar[int]
    pid: int
    def __init__(self, pid: _Optional[int] = ...) -> None: ...

class AttestResponse(_message.Message):
    __slots__ = ("selector_values",)
    SELECTOR_VALUES_FIELD_NUMBER: _ClassVar[int]
    selector_values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, selector_values: _Optional[_Iterable[str]] = ...) -> None: ...
