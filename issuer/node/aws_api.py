# SPDX-License-Identifier: Apache-2.0
"""What AWS's API says of an instance now, with rights of the issuer's own: tags, security groups, roles.

1. EC2 is asked for the one instance, in its region, and has to answer of that one, and of its account.
2. It has to run.
3. IAM is asked for the roles of its instance profile, which has to be of its account.
"""

import asyncio
import importlib
import logging
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Final

import msgspec

from issuer.errors import NodeRejectedError, PlatformUnavailableError
from spiffekit.daemon.config import ConfigError
from spiffekit.errors import SelectorError
from spiffekit.selector import Selector, typo

logger = logging.getLogger(__name__)

TIMEOUT: Final = 15.0  # seconds for all that is asked of one instance; less than an attestation may take
THREADS: Final = 4  # questions at a time; more wait, within their time
KINDS: Final = ("tag:", "sg:", "iamrole:")  # of the selectors that are stated here
_RUNS: Final = {"pending", "running"}
_ROLE: Final = re.compile(r"(?:[\w+=,.@-]+/){0,16}[\w+=,.@-]{1,64}", re.ASCII)
_PROFILE: Final = re.compile(
    r"arn:[a-z-]+:iam::([0-9]{12}):instance-profile/(?:[!-~]+/)?([\w+=,.@-]{1,128})", re.ASCII
)


class Api(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node_attestor.aws_iid.api]``; credentials are found as AWS's own tools find them.

    Attributes:
        tag_keys: The tags of instances that become selectors, by their keys.
        instance_profile: Ask IAM for the roles of an instance's profile.
        assume_role: The role to assume in the account of each instance, by name, after its path if it has
            one; without it the issuer's own credentials are used.
    """

    tag_keys: tuple[str, ...] = ()
    instance_profile: bool = True
    assume_role: str = ""

    def problems(self) -> Iterator[str]:
        """Say what cannot be meant."""
        for key in self.tag_keys:
            if not key or len(key) > 128 or key.startswith(":"):
                yield f"api.tag_keys: {key[:128]!r} is not 1 to 128 characters, or begins with a colon"
            # Who may write the tag `a` could write `b:c` into it, and be taken for one with the tag `a:b`.
            longer = [other for other in self.tag_keys if other.startswith(f"{key}:")]
            yield from (f"api.tag_keys: {other!r} could be forged by the tag {key!r}" for other in longer)
        if self.assume_role and not _ROLE.fullmatch(self.assume_role):
            yield "api.assume_role: is not the name of a role"


class _Arn(msgspec.Struct, rename="pascal"):
    arn: Annotated[str, msgspec.Meta(max_length=1024)]


class _Tag(msgspec.Struct, rename="pascal"):
    key: Annotated[str, msgspec.Meta(max_length=128)]
    value: Annotated[str, msgspec.Meta(max_length=256)]


class _Group(msgspec.Struct, rename="pascal"):
    group_id: Annotated[str, msgspec.Meta(max_length=64)]
    group_name: Annotated[str, msgspec.Meta(max_length=255)]


class _State(msgspec.Struct, rename="pascal"):
    name: str


class _Instance(msgspec.Struct, rename="pascal"):
    instance_id: str
    state: _State
    tags: Annotated[tuple[_Tag, ...], msgspec.Meta(max_length=100)] = ()  # 50, and what AWS adds
    security_groups: Annotated[tuple[_Group, ...], msgspec.Meta(max_length=64)] = ()
    iam_instance_profile: _Arn | None = None


class _Reservation(msgspec.Struct, rename="pascal"):
    owner_id: str
    instances: tuple[_Instance, ...]


class _Instances(msgspec.Struct, rename="pascal"):
    reservations: tuple[_Reservation, ...] = ()


class _Profile(_Arn, rename="pascal"):
    roles: Annotated[tuple[_Arn, ...], msgspec.Meta(max_length=8)] = ()


class _ProfileAnswer(msgspec.Struct, rename="pascal"):
    instance_profile: _Profile


class AwsApi:
    """Asks it, in threads of its own: botocore blocks."""

    def __init__(self, config: Api, timeout: float = TIMEOUT) -> None:
        """Put it together; nothing is asked yet.

        Raises:
            ConfigError: botocore is not installed.
        """
        try:
            self._session = importlib.import_module("botocore.session").Session()
        except ImportError as error:
            raise ConfigError("api: needs the extra `aws` to be installed") from error
        self._credentials = importlib.import_module("botocore.credentials")
        self._errors = importlib.import_module("botocore.exceptions")
        unread = importlib.import_module("botocore.parsers").ResponseParserError
        # The last three are what its parsers raise, besides their own error, at an answer of another form.
        failures = (self._errors.BotoCoreError, self._errors.ClientError, unread)
        self._failures = (*failures, LookupError, TypeError, ValueError)
        self._options = importlib.import_module("botocore.config").Config(
            connect_timeout=timeout / 3,
            read_timeout=timeout / 3,
            retries={"total_max_attempts": 2, "mode": "standard"},
        )
        self._config, self._timeout = config, timeout
        self._making = threading.RLock()  # sessions are not made for threads; their clients are
        self._sessions: dict[str, Any] = {}  # with a role assumed, by its ARN
        self._clients: dict[tuple[str, str, str], Any] = {}  # of accounts and regions that are allowed
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="aws-api")

    async def selectors(self, account: str, region: str, instance: str) -> frozenset[Selector]:
        """Return what is true of an instance, of an account and a region that are known to be right.

        Raises:
            NodeRejectedError: It does not run, or is another's, or what it has cannot be stated.
            PlatformUnavailableError: The API gives no answer, or none that can be read.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout):
                return await loop.run_in_executor(self._threads, self._selectors, account, region, instance)
        except (TimeoutError, *self._failures) as error:
            # What AWS says of our own rights is nothing to tell a node.
            logger.warning("AWS's API says nothing of %s: %.300r", instance, error)
            raise PlatformUnavailableError("AWS's API cannot be asked, or gives no answer of use") from error

    def _selectors(self, account: str, region: str, instance: str) -> frozenset[Selector]:
        found = self._instance(account, region, instance)
        values = [f"tag:{tag.key}:{tag.value}" for tag in found.tags if tag.key in self._config.tag_keys]
        for group in found.security_groups:
            values += [f"sg:id:{group.group_id}", f"sg:name:{group.group_name}"]
        if found.iam_instance_profile is not None and self._config.instance_profile:
            values += self._roles(account, region, found.iam_instance_profile.arn)
        try:
            selectors = frozenset(Selector("aws_iid", value) for value in values)
        except SelectorError as error:
            raise NodeRejectedError(f"instance: {error}") from error
        for selector in selectors:
            if (wrong := typo(selector)) is not None:
                raise NodeRejectedError(f"instance: {wrong}")
        return selectors

    def _instance(self, account: str, region: str, instance: str) -> _Instance:
        try:
            answer = self._client("ec2", account, region).describe_instances(InstanceIds=[instance])  # (1)
        except self._errors.ClientError as error:
            if error.response.get("Error", {}).get("Code") == "InvalidInstanceID.NotFound":
                raise NodeRejectedError("instance does not exist") from error
            raise
        reservations = msgspec.convert(answer, _Instances).reservations
        found = [(r.owner_id, i.instance_id, i) for r in reservations for i in r.instances]
        if len(found) != 1 or found[0][:2] != (account, instance):
            raise NodeRejectedError("instance is not one that its account has")
        described = found[0][2]
        if described.state.name not in _RUNS:  # (2)
            raise NodeRejectedError("instance does not run")
        return described

    def _roles(self, account: str, region: str, arn: str) -> list[str]:
        match = _PROFILE.fullmatch(arn)
        if match is None or match[1] != account:
            raise NodeRejectedError("instance has a profile that is not of its account")
        iam = self._client("iam", account, region)
        answer = iam.get_instance_profile(InstanceProfileName=match[2])  # (3)
        profile = msgspec.convert(answer, _ProfileAnswer).instance_profile
        if profile.arn != arn or any(role.arn.split(":")[4:5] != [account] for role in profile.roles):
            raise NodeRejectedError("instance has a profile that is not of its account")
        return [f"iamrole:{role.arn}" for role in profile.roles]

    def _client(self, service: str, account: str, region: str) -> Any:
        with self._making:
            role = ""
            if self._config.assume_role:
                partition = self._session.get_partition_for_region(region)
                role = f"arn:{partition}:iam::{account}:role/{self._config.assume_role}"
            key = (service, region, role)
            if key not in self._clients:
                if (own := self._session.get_credentials()) is None:
                    raise self._errors.NoCredentialsError  # a client made now would never have any
                session = self._assuming(role, region, own) if role else self._session
                self._clients[key] = session.create_client(service, region, config=self._options)
            return self._clients[key]

    def _assuming(self, role: str, region: str, own: Any) -> Any:
        """Return the session that has assumed a role, or will when it is used."""
        if role not in self._sessions:

            def create_client(service: str, **keys: str) -> Any:
                with self._making:
                    return self._session.create_client(service, region, config=self._options, **keys)

            fetcher = self._credentials.AssumeRoleCredentialFetcher(create_client, own, role)
            session = importlib.import_module("botocore.session").Session()
            session.register_component("data_loader", self._session.get_component("data_loader"))
            session.register_component("credential_provider", _Provider(self._credentials, fetcher))
            self._sessions[role] = session
        return self._sessions[role]


class _Provider:
    """Where a session of botocore's gets its credentials: from assuming a role, again before they end."""

    def __init__(self, credentials: Any, fetcher: Any) -> None:
        self._credentials, self._fetcher = credentials, fetcher

    def load_credentials(self) -> Any:
        return self._credentials.DeferredRefreshableCredentials(
            self._fetcher.fetch_credentials, "assume-role"
        )
