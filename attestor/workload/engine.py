# SPDX-License-Identifier: Apache-2.0
"""A container as Docker's engine API describes it, which podman speaks as well."""

import re
from typing import Annotated, Final, TypeVar

import msgspec

from attestor.errors import WorkloadAttestationError
from attestor.workload.containers import Inspected, bounded, selectors
from attestor.workload.engine_api import EngineApi
from attestor.workload.image_signatures import ImageSignatures
from spiffekit.evidence import ContainerFacts

T = TypeVar("T")

MAX_DIGESTS: Final = 16  # of one image: a registry each
_IMAGE_ID: Final = re.compile(r"sha256:[0-9a-f]{64}")
_DIGEST: Final = re.compile(r"([^@]+)@(sha256:[0-9a-f]{64})")
_Pid = Annotated[int, msgspec.Meta(ge=0, le=2**22)]  # 0 if it does not run; the kernel's PID_MAX_LIMIT


class _State(msgspec.Struct, rename="pascal"):
    pid: _Pid


class _Config(msgspec.Struct, rename="pascal"):
    image: str = ""
    labels: dict[str, str] | None = None
    env: list[str] | None = None


class _Container(msgspec.Struct, rename="pascal"):
    id: str
    name: str
    image: str
    state: _State
    config: _Config


class _Image(msgspec.Struct, rename="pascal"):
    repo_digests: list[str] | None = None


class Engine:
    """An engine, and what is stated of its containers."""

    def __init__(
        self,
        api: EngineApi,
        *,
        kind: str,
        prefix: str = "",
        environment: frozenset[str] = frozenset(),
        signatures: ImageSignatures | None = None,
    ) -> None:
        """Put it together.

        Args:
            api: Where it answers.
            kind: The type of the selectors.
            prefix: What stands before each selector's value.
            environment: The variables that are stated; "*" is all.
            signatures: Knows who signed images; None if nobody is asked.
        """
        self._api = api
        self._kind = kind
        self._prefix = prefix
        self._environment = environment
        self._signatures = signatures

    async def inspect(self, container_id: str) -> Inspected | None:
        """Ask for a container; None if there is no such that runs.

        Args:
            container_id: 64 lower-case hex digits.

        Raises:
            WorkloadAttestationError: The engine cannot be asked, or answers with nonsense.
        """
        body = await self._api.get(f"/containers/{container_id}/json")
        if body is None:
            return None
        found = _decode(body, _Container)
        if found.id != container_id:
            raise WorkloadAttestationError("engine describes another container than it was asked for")
        if found.state.pid == 0:
            return None
        image, name = found.config.image, found.name.removeprefix("/")
        digests = await self._digests(found.image)
        single = [
            ("name:", name),
            ("image_id:", image),
            ("image_config_digest:", found.image),
            *(("image_digest:", digest) for _, digest in digests),
        ]
        stated = [pair for pair in single if pair[1]]
        if self._signatures is not None:
            stated += await self._signatures.stated(digest for _, digest in digests)
        stated += self._labels(found.config.labels or {}) + self._variables(found.config.env or [])
        facts = ContainerFacts(
            engine=self._kind,
            id=container_id,
            name=name,
            image=image,
            image_id=found.image,
            image_digest=_digest_of(image, digests),
        )
        named = ((self._prefix + fact, value) for fact, value in stated)
        return Inspected(found.state.pid, facts, selectors(self._kind, named))

    async def _digests(self, image_id: str) -> list[tuple[str, str]]:
        """Return repositories and the image's digests there."""
        if not _IMAGE_ID.fullmatch(image_id):
            raise WorkloadAttestationError("engine names an image by something else than its digest")
        body = await self._api.get(f"/images/{image_id}/json")
        if body is None:
            return []  # removed, while its container runs on
        matches = map(_DIGEST.fullmatch, _decode(body, _Image).repo_digests or [])
        return sorted((match[1], match[2]) for match in matches if match)[:MAX_DIGESTS]

    def _labels(self, labels: dict[str, str]) -> list[tuple[str, str]]:
        # With a colon in its name, one label could be taken for another.
        return bounded(((f"label:{k}:", v) for k, v in labels.items() if ":" not in k), "label")

    def _variables(self, variables: list[str]) -> list[tuple[str, str]]:
        pairs = (variable.partition("=") for variable in variables)
        wanted = self._environment
        return bounded(((f"env:{k}=", v) for k, _, v in pairs if k in wanted or "*" in wanted), "env")


def _digest_of(image: str, digests: list[tuple[str, str]]) -> str:
    """Return the digest in the repository that the image was named by, or else in the first."""
    named = (digest for repository, digest in digests if image.startswith(repository))
    return next(named, digests[0][1] if digests else "")


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        # Not the reason, which may quote the environment.
        raise WorkloadAttestationError("engine answers with something else than it should") from error
