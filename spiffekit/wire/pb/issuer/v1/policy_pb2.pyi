from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StoredPolicy(_message.Message):
    __slots__ = ("name", "version", "text", "deleted", "author", "reason", "created_at")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    text: str
    deleted: bool
    author: str
    reason: str
    created_at: int
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., text: _Optional[str] = ..., deleted: _Optional[bool] = ..., author: _Optional[str] = ..., reason: _Optional[str] = ..., created_at: _Optional[int] = ...) -> None: ...

class PutPolicyRequest(_message.Message):
    __slots__ = ("name", "text", "reason", "replaces")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REPLACES_FIELD_NUMBER: _ClassVar[int]
    name: str
    text: str
    reason: str
    replaces: int
    def __init__(self, name: _Optional[str] = ..., text: _Optional[str] = ..., reason: _Optional[str] = ..., replaces: _Optional[int] = ...) -> None: ...

class ListPoliciesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListPoliciesResponse(_message.Message):
    __slots__ = ("policies", "version", "hash", "enforced")
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    ENFORCED_FIELD_NUMBER: _ClassVar[int]
    policies: _containers.RepeatedCompositeFieldContainer[StoredPolicy]
    version: int
    hash: str
    enforced: bool
    def __init__(self, policies: _Optional[_Iterable[_Union[StoredPolicy, _Mapping]]] = ..., version: _Optional[int] = ..., hash: _Optional[str] = ..., enforced: _Optional[bool] = ...) -> None: ...

class GetPolicyRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class DeletePolicyRequest(_message.Message):
    __slots__ = ("name", "reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    reason: str
    def __init__(self, name: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class PolicyChange(_message.Message):
    __slots__ = ("name", "text")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    name: str
    text: str
    def __init__(self, name: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class TestPoliciesRequest(_message.Message):
    __slots__ = ("spiffe_id", "audience", "tool", "service", "node", "level", "selectors", "has_evidence", "image_digest", "changes", "method", "path")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    SELECTORS_FIELD_NUMBER: _ClassVar[int]
    HAS_EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    audience: str
    tool: str
    service: str
    node: str
    level: int
    selectors: _containers.RepeatedScalarFieldContainer[str]
    has_evidence: bool
    image_digest: str
    changes: _containers.RepeatedCompositeFieldContainer[PolicyChange]
    method: str
    path: str
    def __init__(self, spiffe_id: _Optional[str] = ..., audience: _Optional[str] = ..., tool: _Optional[str] = ..., service: _Optional[str] = ..., node: _Optional[str] = ..., level: _Optional[int] = ..., selectors: _Optional[_Iterable[str]] = ..., has_evidence: _Optional[bool] = ..., image_digest: _Optional[str] = ..., changes: _Optional[_Iterable[_Union[PolicyChange, _Mapping]]] = ..., method: _Optional[str] = ..., path: _Optional[str] = ...) -> None: ...

class PolicyDecision(_message.Message):
    __slots__ = ("allowed", "ids", "reason", "shadow_allowed", "shadow_ids", "hash")
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SHADOW_ALLOWED_FIELD_NUMBER: _ClassVar[int]
    SHADOW_IDS_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    allowed: bool
    ids: _containers.RepeatedScalarFieldContainer[str]
    reason: str
    shadow_allowed: bool
    shadow_ids: _containers.RepeatedScalarFieldContainer[str]
    hash: str
    def __init__(self, allowed: _Optional[bool] = ..., ids: _Optional[_Iterable[str]] = ..., reason: _Optional[str] = ..., shadow_allowed: _Optional[bool] = ..., shadow_ids: _Optional[_Iterable[str]] = ..., hash: _Optional[str] = ...) -> None: ...

class SimulatePoliciesRequest(_message.Message):
    __slots__ = ("since", "changes", "with_shadow")
    SINCE_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    WITH_SHADOW_FIELD_NUMBER: _ClassVar[int]
    since: int
    changes: _containers.RepeatedCompositeFieldContainer[PolicyChange]
    with_shadow: bool
    def __init__(self, since: _Optional[int] = ..., changes: _Optional[_Iterable[_Union[PolicyChange, _Mapping]]] = ..., with_shadow: _Optional[bool] = ...) -> None: ...

class PolicyFlip(_message.Message):
    __slots__ = ("event_id", "at", "spiffe_id", "resource_kind", "resource", "was_allowed", "would_be_allowed", "ids", "reason")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_KIND_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    WAS_ALLOWED_FIELD_NUMBER: _ClassVar[int]
    WOULD_BE_ALLOWED_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    at: int
    spiffe_id: str
    resource_kind: str
    resource: str
    was_allowed: bool
    would_be_allowed: bool
    ids: _containers.RepeatedScalarFieldContainer[str]
    reason: str
    def __init__(self, event_id: _Optional[str] = ..., at: _Optional[int] = ..., spiffe_id: _Optional[str] = ..., resource_kind: _Optional[str] = ..., resource: _Optional[str] = ..., was_allowed: _Optional[bool] = ..., would_be_allowed: _Optional[bool] = ..., ids: _Optional[_Iterable[str]] = ..., reason: _Optional[str] = ...) -> None: ...

class SimulatePoliciesResponse(_message.Message):
    __slots__ = ("decided", "undecided", "flipped", "flips", "truncated")
    DECIDED_FIELD_NUMBER: _ClassVar[int]
    UNDECIDED_FIELD_NUMBER: _ClassVar[int]
    FLIPPED_FIELD_NUMBER: _ClassVar[int]
    FLIPS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    decided: int
    undecided: int
    flipped: int
    flips: _containers.RepeatedCompositeFieldContainer[PolicyFlip]
    truncated: bool
    def __init__(self, decided: _Optional[int] = ..., undecided: _Optional[int] = ..., flipped: _Optional[int] = ..., flips: _Optional[_Iterable[_Union[PolicyFlip, _Mapping]]] = ..., truncated: _Optional[bool] = ...) -> None: ...

class GetPolicyBundleRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PolicyBundle(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: str
    def __init__(self, token: _Optional[str] = ...) -> None: ...
