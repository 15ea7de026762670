from spiffekit.wire.pb.spire.api import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Evidence(_message.Message):
    __slots__ = ("id", "instance_uid", "collected_at", "selectors", "process", "container", "pod", "ancestors")
    ID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_UID_FIELD_NUMBER: _ClassVar[int]
    COLLECTED_AT_FIELD_NUMBER: _ClassVar[int]
    SELECTORS_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    POD_FIELD_NUMBER: _ClassVar[int]
    ANCESTORS_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    instance_uid: str
    collected_at: int
    selectors: _containers.RepeatedCompositeFieldContainer[_types_pb2.Selector]
    process: ProcessFacts
    container: ContainerFacts
    pod: PodFacts
    ancestors: _containers.RepeatedCompositeFieldContainer[AncestorFacts]
    def __init__(self, id: _Optional[bytes] = ..., instance_uid: _Optional[str] = ..., collected_at: _Optional[int] = ..., selectors: _Optional[_Iterable[_Union[_types_pb2.Selector, _Mapping]]] = ..., process: _Optional[_Union[ProcessFacts, _Mapping]] = ..., container: _Optional[_Union[ContainerFacts, _Mapping]] = ..., pod: _Optional[_Union[PodFacts, _Mapping]] = ..., ancestors: _Optional[_Iterable[_Union[AncestorFacts, _Mapping]]] = ...) -> None: ...

class AncestorFacts(_message.Message):
    __slots__ = ("pid", "start_ticks", "uid", "executable")
    PID_FIELD_NUMBER: _ClassVar[int]
    START_TICKS_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    EXECUTABLE_FIELD_NUMBER: _ClassVar[int]
    pid: int
    start_ticks: int
    uid: int
    executable: str
    def __init__(self, pid: _Optional[int] = ..., start_ticks: _Optional[int] = ..., uid: _Optional[int] = ..., executable: _Optional[str] = ...) -> None: ...

class ProcessFacts(_message.Message):
    __slots__ = ("pid", "start_ticks", "uid", "gid", "executable", "device", "inode", "sha256")
    PID_FIELD_NUMBER: _ClassVar[int]
    START_TICKS_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    EXECUTABLE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    pid: int
    start_ticks: int
    uid: int
    gid: int
    executable: str
    device: int
    inode: int
    sha256: str
    def __init__(self, pid: _Optional[int] = ..., start_ticks: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., executable: _Optional[str] = ..., device: _Optional[int] = ..., inode: _Optional[int] = ..., sha256: _Optional[str] = ...) -> None: ...

class ContainerFacts(_message.Message):
    __slots__ = ("engine", "id", "name", "image", "image_id", "image_digest", "entered")
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    IMAGE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ENTERED_FIELD_NUMBER: _ClassVar[int]
    engine: str
    id: str
    name: str
    image: str
    image_id: str
    image_digest: str
    entered: bool
    def __init__(self, engine: _Optional[str] = ..., id: _Optional[str] = ..., name: _Optional[str] = ..., image: _Optional[str] = ..., image_id: _Optional[str] = ..., image_digest: _Optional[str] = ..., entered: _Optional[bool] = ...) -> None: ...

class PodFacts(_message.Message):
    __slots__ = ("uid", "namespace", "name", "service_account", "node_name", "container")
    UID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SERVICE_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    uid: str
    namespace: str
    name: str
    service_account: str
    node_name: str
    container: str
    def __init__(self, uid: _Optional[str] = ..., namespace: _Optional[str] = ..., name: _Optional[str] = ..., service_account: _Optional[str] = ..., node_name: _Optional[str] = ..., container: _Optional[str] = ...) -> None: ...
