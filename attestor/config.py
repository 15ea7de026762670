# SPDX-License-Identifier: Apache-2.0
"""The attestor's configuration file: its tables, their options and defaults."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from spiffekit.daemon import plugins
from spiffekit.daemon.config import ConfigError, Span, decode
from spiffekit.daemon.logging import Format, Level
from spiffekit.errors import SpiffeIdError
from spiffekit.id import TrustDomain

MIN_SYNC: Final = timedelta(seconds=1)
MAX_PORT: Final = 65535
MAX_SOCKET_PATH: Final = 100  # bytes; the kernel allows 107, and a new socket has another name at first
_ENTRY_POINTS: Final = {
    "node_attestor": "attestor.node",
    "key_manager": "attestor.keys",
    "workload_attestor": "attestor.workload",
}


class AttestorTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[attestor]``.

    Attributes:
        trust_domain: The issuer's trust domain.
        issuer_address: Where the issuer listens: a name or an address.
        issuer_port: The port there.
        socket_path: The Workload API's socket, open to every local user.
        admin_socket: The socket of operators, for `attestor explain`; nowhere if left out.
        data_dir: The folder of the node's SVID and bundle.
        trust_bundle_path: The bundle that the first contact is verified with.
        trust_bundle_format: pem or spiffe.
        insecure_bootstrap: Without a bundle: trust the first chain that names the issuer's ID, once.
        rebootstrap: auto or never: read `trust_bundle_path` again when the issuer is not trusted.
        sync_interval: How often a stock SPIRE server, which cannot push, is asked.
        allow_unauthenticated_verifiers: Give our own bundle to processes without an identity, too.
        allowed_foreign_jwt_claims: Claims of other trust domains' tokens that ValidateJWTSVID passes on.
        health_address: Where /live, /ready and /metrics answer; nowhere if left out.
        health_port: The port there.
        log_level: debug, info, warning or error.
        log_format: text or json.
    """

    trust_domain: str
    socket_path: Path
    data_dir: Path
    admin_socket: Path | None = None
    issuer_address: str = "127.0.0.1"
    issuer_port: int = 8081
    trust_bundle_path: Path | None = None
    trust_bundle_format: Literal["pem", "spiffe"] = "pem"
    insecure_bootstrap: bool = False
    rebootstrap: Literal["auto", "never"] = "auto"
    sync_interval: Span = Span(seconds=5)
    allow_unauthenticated_verifiers: bool = False
    allowed_foreign_jwt_claims: tuple[str, ...] = ()
    health_address: str | None = None
    health_port: int = 8080
    log_level: Level = "info"
    log_format: Format = "text"


class WorkloadAttestorOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every ``[workload_attestor.NAME]`` table may have besides its own options.

    Attributes:
        required: Without this attestor's word nobody gets an identity: its failure answers UNAVAILABLE.
        timeout: How long it may take for one process.
    """

    required: bool = False
    timeout: Span = Span(seconds=5)


_COMMON: Final = frozenset(field.name for field in msgspec.structs.fields(WorkloadAttestorOptions))


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file: ``[attestor]``, one node attestor, one key manager, and workload attestors."""

    attestor: AttestorTable
    node_attestor: dict[str, dict[str, Any]]
    key_manager: dict[str, dict[str, Any]]
    workload_attestor: dict[str, dict[str, Any]]

    def problems(self) -> list[str]:
        """Return what is wrong across fields and in plug-ins' tables, each as ``key: rule``."""
        return [*self._problems(), *_bad_plugins(self)]

    def own_options(self) -> dict[str, dict[str, Any]]:
        """Return the tables of the workload attestors without what all of them may have."""
        return {
            name: {key: value for key, value in table.items() if key not in _COMMON}
            for name, table in self.workload_attestor.items()
        }

    def common_options(self, name: str) -> WorkloadAttestorOptions:
        """Return the options of a workload attestor that all of them may have.

        Raises:
            ConfigError: One breaks a rule.
        """
        table = {key: value for key, value in self.workload_attestor[name].items() if key in _COMMON}
        options, errors = decode(table, WorkloadAttestorOptions, f"workload_attestor.{name}.")
        if options is None:
            raise ConfigError(*errors)
        return options

    def _problems(self) -> Iterator[str]:
        table = self.attestor
        try:
            TrustDomain(table.trust_domain)
        except SpiffeIdError as error:
            yield f"attestor.trust_domain: {error}"
        for name in ("node_attestor", "key_manager"):
            if (count := len(getattr(self, name))) != 1:
                yield f"{name}: exactly one is needed, not {count}"
        if not self.workload_attestor:
            yield "workload_attestor: at least one is needed"
        if (table.trust_bundle_path is None) != table.insecure_bootstrap:
            yield "attestor.trust_bundle_path: exactly one of it and insecure_bootstrap is needed"
        if table.sync_interval < MIN_SYNC:
            yield "attestor.sync_interval: shorter than a second"
        for name in ("issuer_port", "health_port"):
            if not 0 < getattr(table, name) <= MAX_PORT:
                yield f"attestor.{name}: not a port"
        yield from _bad_sockets(table)


def _bad_plugins(config: Config) -> Iterator[str]:
    tables = {
        "node_attestor": config.node_attestor,
        "key_manager": config.key_manager,
        "workload_attestor": config.own_options(),
    }
    for kind, found in tables.items():
        try:
            plugins.load(_ENTRY_POINTS[kind], found, prefix=f"{kind}.")
        except ConfigError as error:
            yield from error.errors
    for name in config.workload_attestor:
        try:
            config.common_options(name)
        except ConfigError as error:
            yield from error.errors


def _bad_sockets(table: AttestorTable) -> Iterator[str]:
    for name in ("socket_path", "admin_socket"):
        path: Path | None = getattr(table, name)
        if path is not None and len(bytes(path)) > MAX_SOCKET_PATH:
            yield f"attestor.{name}: longer than {MAX_SOCKET_PATH} bytes, the kernel allows few more"
    if table.admin_socket is None:
        return
    public, admin = table.socket_path.absolute(), table.admin_socket.absolute()
    if public == admin:
        yield "attestor.admin_socket: is already socket_path"
    elif admin.is_relative_to(public.parent):
        yield f"attestor.admin_socket: below {public.parent}, which every user may enter"
