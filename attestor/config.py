# SPDX-License-Identifier: Apache-2.0
"""The attestor's configuration file: its tables, their options and defaults."""

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from spiffekit.daemon import plugins
from spiffekit.daemon.config import ConfigError, Span, decode
from spiffekit.daemon.logging import Format, Level
from spiffekit.errors import SelectorError, SpiffeIdError
from spiffekit.id import TrustDomain
from spiffekit.selector import KINDS, Selector

MIN_SYNC: Final = timedelta(seconds=1)
MAX_PORT: Final = 65535
MAX_SOCKET_PATH: Final = 100  # bytes; the kernel allows 107, and a new socket has another name at first
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=[^\0]*", re.ASCII | re.DOTALL)
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
        wit: Serve WIT-SVIDs, and proofs by instance keys. The standard is incubating; the issuer has to sign.
        wit_export: Hand out the private key with a WIT-SVID, too, as the standard's FetchWITSVID does.
        report: Tell the issuer, for its audit trail, which process was handed what, and who was refused.
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
    wit: bool = False
    wit_export: bool = False
    report: bool = True
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


class ExternalAttestorTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[workload_attestor.NAME]`` of a plug-in that runs as a process of its own.

    Attributes:
        plugin_cmd: The program, by an absolute path; only root and the attestor may be able to write it.
        plugin_checksum: The program's SHA-256 in lower-case hex.
        plugin_args: Its arguments.
        plugin_env: Its environment, each as `NAME=value`; it gets nothing of the attestor's.
        plugin_data: Its own configuration, handed over as it is; most plug-ins want HCL.
    """

    plugin_cmd: Path
    plugin_checksum: str
    plugin_args: tuple[str, ...] = ()
    plugin_env: tuple[str, ...] = ()
    plugin_data: str = ""

    def environment(self) -> dict[str, str]:
        """Return the variables of `plugin_env`."""
        return dict(variable.split("=", 1) for variable in self.plugin_env)

    def problems(self) -> Iterator[str]:
        """Say which options cannot be used, each as ``key: rule``."""
        if not self.plugin_cmd.is_absolute():
            yield "plugin_cmd: not an absolute path"
        if not _SHA256.fullmatch(self.plugin_checksum):
            yield "plugin_checksum: not a SHA-256 in lower-case hex"
        for variable in self.plugin_env:
            if not _VARIABLE.fullmatch(variable):
                yield f"plugin_env: {variable.partition('=')[0]!r} is not of the form NAME=value"
        if any("\0" in text for text in (str(self.plugin_cmd), *self.plugin_args)):
            yield "plugin_cmd: a NUL is in it, or in plugin_args"


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
        return {name: own for name, own in self._own_options().items() if "plugin_cmd" not in own}

    def external(self) -> dict[str, ExternalAttestorTable]:
        """Return the tables of workload attestors that run as processes of their own.

        Raises:
            ConfigError: One breaks a rule; every error is reported.
        """
        found, errors = {}, []
        for name, own in self._own_options().items():
            if "plugin_cmd" not in own:
                continue
            prefix = f"workload_attestor.{name}"
            table, problems = decode(own, ExternalAttestorTable, f"{prefix}.")
            errors += problems
            if name in KINDS:
                errors.append(f"{prefix}: is the name of an attestor of ours; give the plug-in another")
            try:
                Selector(name, "value")
            except SelectorError as error:
                errors.append(f"{prefix}: {error}")
            if table is not None:
                errors += [f"{prefix}.{problem}" for problem in table.problems()]
                found[name] = table
        if errors:
            raise ConfigError(*errors)
        return found

    def _own_options(self) -> dict[str, dict[str, Any]]:
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
        if table.wit_export and not table.wit:
            yield "attestor.wit_export: goes with wit"
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
    try:
        config.external()
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
