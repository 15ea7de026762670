from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AgentState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AGENT_STATE_UNSPECIFIED: _ClassVar[AgentState]
    REGISTERED: _ClassVar[AgentState]
    ACTIVE: _ClassVar[AgentState]
    SUSPENDED: _ClassVar[AgentState]
    RETIRED: _ClassVar[AgentState]
AGENT_STATE_UNSPECIFIED: AgentState
REGISTERED: AgentState
ACTIVE: AgentState
SUSPENDED: AgentState
RETIRED: AgentState

class Owner(_message.Message):
    __slots__ = ("issuer", "subject", "group")
    ISSUER_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    issuer: str
    subject: str
    group: bool
    def __init__(self, issuer: _Optional[str] = ..., subject: _Optional[str] = ..., group: _Optional[bool] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("tools_json", "audiences", "limits_audiences", "max_depth", "x509_ttl", "jwt_ttl", "wit_ttl", "delegation_ttl")
    TOOLS_JSON_FIELD_NUMBER: _ClassVar[int]
    AUDIENCES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_AUDIENCES_FIELD_NUMBER: _ClassVar[int]
    MAX_DEPTH_FIELD_NUMBER: _ClassVar[int]
    X509_TTL_FIELD_NUMBER: _ClassVar[int]
    JWT_TTL_FIELD_NUMBER: _ClassVar[int]
    WIT_TTL_FIELD_NUMBER: _ClassVar[int]
    DELEGATION_TTL_FIELD_NUMBER: _ClassVar[int]
    tools_json: str
    audiences: _containers.RepeatedScalarFieldContainer[str]
    limits_audiences: bool
    max_depth: int
    x509_ttl: int
    jwt_ttl: int
    wit_ttl: int
    delegation_ttl: int
    def __init__(self, tools_json: _Optional[str] = ..., audiences: _Optional[_Iterable[str]] = ..., limits_audiences: _Optional[bool] = ..., max_depth: _Optional[int] = ..., x509_ttl: _Optional[int] = ..., jwt_ttl: _Optional[int] = ..., wit_ttl: _Optional[int] = ..., delegation_ttl: _Optional[int] = ...) -> None: ...

class AgentSpec(_message.Message):
    __slots__ = ("spiffe_id", "owner", "sponsor", "team", "agent_class", "purpose", "limits", "review_by")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    SPONSOR_FIELD_NUMBER: _ClassVar[int]
    TEAM_FIELD_NUMBER: _ClassVar[int]
    AGENT_CLASS_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    REVIEW_BY_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    owner: Owner
    sponsor: str
    team: str
    agent_class: str
    purpose: str
    limits: Limits
    review_by: int
    def __init__(self, spiffe_id: _Optional[str] = ..., owner: _Optional[_Union[Owner, _Mapping]] = ..., sponsor: _Optional[str] = ..., team: _Optional[str] = ..., agent_class: _Optional[str] = ..., purpose: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., review_by: _Optional[int] = ...) -> None: ...

class Agent(_message.Message):
    __slots__ = ("spec", "id", "state", "version", "registered_by", "created_at", "changed_at", "reason", "orphaned_at", "successor", "effective")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_BY_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    CHANGED_AT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ORPHANED_AT_FIELD_NUMBER: _ClassVar[int]
    SUCCESSOR_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_FIELD_NUMBER: _ClassVar[int]
    spec: AgentSpec
    id: str
    state: AgentState
    version: int
    registered_by: str
    created_at: int
    changed_at: int
    reason: str
    orphaned_at: int
    successor: str
    effective: Limits
    def __init__(self, spec: _Optional[_Union[AgentSpec, _Mapping]] = ..., id: _Optional[str] = ..., state: _Optional[_Union[AgentState, str]] = ..., version: _Optional[int] = ..., registered_by: _Optional[str] = ..., created_at: _Optional[int] = ..., changed_at: _Optional[int] = ..., reason: _Optional[str] = ..., orphaned_at: _Optional[int] = ..., successor: _Optional[str] = ..., effective: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class RegisterAgentRequest(_message.Message):
    __slots__ = ("spec",)
    SPEC_FIELD_NUMBER: _ClassVar[int]
    spec: AgentSpec
    def __init__(self, spec: _Optional[_Union[AgentSpec, _Mapping]] = ...) -> None: ...

class GetAgentRequest(_message.Message):
    __slots__ = ("spiffe_id",)
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    def __init__(self, spiffe_id: _Optional[str] = ...) -> None: ...

class ListAgentsRequest(_message.Message):
    __slots__ = ("state", "team", "review_due", "page_size", "page_token")
    STATE_FIELD_NUMBER: _ClassVar[int]
    TEAM_FIELD_NUMBER: _ClassVar[int]
    REVIEW_DUE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    state: AgentState
    team: str
    review_due: bool
    page_size: int
    page_token: str
    def __init__(self, state: _Optional[_Union[AgentState, str]] = ..., team: _Optional[str] = ..., review_due: _Optional[bool] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListAgentsResponse(_message.Message):
    __slots__ = ("agents", "next_page_token")
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    agents: _containers.RepeatedCompositeFieldContainer[Agent]
    next_page_token: str
    def __init__(self, agents: _Optional[_Iterable[_Union[Agent, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateAgentRequest(_message.Message):
    __slots__ = ("spec", "reason")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    spec: AgentSpec
    reason: str
    def __init__(self, spec: _Optional[_Union[AgentSpec, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class ChangeStateRequest(_message.Message):
    __slots__ = ("spiffe_id", "reason")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    reason: str
    def __init__(self, spiffe_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RetireAgentRequest(_message.Message):
    __slots__ = ("spiffe_id", "reason", "successor")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SUCCESSOR_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    reason: str
    successor: str
    def __init__(self, spiffe_id: _Optional[str] = ..., reason: _Optional[str] = ..., successor: _Optional[str] = ...) -> None: ...

class ReviewAgentRequest(_message.Message):
    __slots__ = ("spiffe_id", "reason", "review_by")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REVIEW_BY_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    reason: str
    review_by: int
    def __init__(self, spiffe_id: _Optional[str] = ..., reason: _Optional[str] = ..., review_by: _Optional[int] = ...) -> None: ...

class TransferAgentRequest(_message.Message):
    __slots__ = ("spiffe_id", "owner", "reason")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    owner: Owner
    reason: str
    def __init__(self, spiffe_id: _Optional[str] = ..., owner: _Optional[_Union[Owner, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class AgentClass(_message.Message):
    __slots__ = ("name", "limits", "two_people", "review_every")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    TWO_PEOPLE_FIELD_NUMBER: _ClassVar[int]
    REVIEW_EVERY_FIELD_NUMBER: _ClassVar[int]
    name: str
    limits: Limits
    two_people: bool
    review_every: int
    def __init__(self, name: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., two_people: _Optional[bool] = ..., review_every: _Optional[int] = ...) -> None: ...

class ListAgentClassesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListAgentClassesResponse(_message.Message):
    __slots__ = ("classes",)
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    classes: _containers.RepeatedCompositeFieldContainer[AgentClass]
    def __init__(self, classes: _Optional[_Iterable[_Union[AgentClass, _Mapping]]] = ...) -> None: ...

class DeleteAgentClassRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...
