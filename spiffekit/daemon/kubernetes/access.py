# SPDX-License-Identifier: Apache-2.0
"""How an API server or a kubelet is reached, and who we are there.

From the folder that every pod has, or from a kubeconfig with fixed credentials. Programs that a kubeconfig
names are not run, and one that switches verification off is refused.
"""

import base64
import binascii
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from spiffekit.daemon.http import Peer
from spiffekit.wire.tls import memory_file

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MAX_FILE: Final = 1024 * 1024  # bytes of a certificate, key, token or kubeconfig
HTTPS_PORT: Final = 443
_PARTIAL_CHAIN: Final = 0x80000  # X509_V_FLAG_PARTIAL_CHAIN: a kubelet's own certificate may be the root

Source = bytes | Path | None
"""Content, or the file that has it. Files are read for each connection: they are renewed."""


class AccessError(Exception):
    """What is needed to reach a server is missing or cannot be used."""


@dataclass(frozen=True, slots=True)
class Access:
    """See the module. `ca` None trusts the machine's roots."""

    host: str
    port: int
    ca: Source = None
    certificate: Source = None
    key: Source = field(default=None, repr=False)
    token: Source = field(default=None, repr=False)
    server_name: str = ""
    prefix: str = ""  # of every path
    plain: bool = False  # no TLS: for a kubelet's read-only port on this node
    unverified: bool = False  # TLS with whoever answers: for the kubelet of this node, on demand

    def peer(self) -> Peer:
        """Return whom to connect to.

        Raises:
            AccessError: A file cannot be read or used.
        """
        return Peer(self.host, self.port, None if self.plain else self._context(), self.server_name)

    def headers(self) -> dict[str, str]:
        """Return what shows who we are.

        Raises:
            AccessError: The token cannot be read.
        """
        if self.token is None:
            return {}
        try:
            return {"authorization": f"Bearer {read(self.token).decode('ascii').strip()}"}
        except UnicodeDecodeError as error:
            raise AccessError("token is not ASCII") from error

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_flags |= ssl.VerifyFlags(_PARTIAL_CHAIN)
        try:
            if self.unverified:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            elif self.ca is None:
                context.load_default_certs()
            else:
                context.load_verify_locations(cadata=read(self.ca).decode("ascii"))
            if self.certificate is not None:
                chain = read(self.certificate) + b"\n" + (read(self.key) if self.key is not None else b"")
                with memory_file(chain) as path:
                    context.load_cert_chain(path, password=_no_password)
        except (OSError, UnicodeDecodeError) as error:  # ssl's errors are among them
            raise AccessError(f"certificate for {self.host} cannot be used: {error}") from error
        return context


def _no_password() -> str:
    return ""  # and never ask at a terminal


def read(source: bytes | Path) -> bytes:
    """Return the content of a source.

    Raises:
        AccessError: The file cannot be read or is too large.
    """
    if isinstance(source, bytes):
        return source
    try:
        with source.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise AccessError(f"{source}: {error.strerror}") from error
    if len(content) > MAX_FILE:
        raise AccessError(f"{source}: larger than {MAX_FILE} bytes")
    return content


def in_cluster(environ: Mapping[str, str] = os.environ, folder: Path = SERVICE_ACCOUNT) -> Access:
    """Return the access that Kubernetes gives to a pod.

    Raises:
        AccessError: We are in no pod.
    """
    try:
        host, port = environ["KUBERNETES_SERVICE_HOST"], int(environ["KUBERNETES_SERVICE_PORT"])
    except (KeyError, ValueError) as error:
        raise AccessError("not in a pod: KUBERNETES_SERVICE_HOST or _PORT is not set") from error
    return Access(host, port, ca=folder / "ca.crt", token=folder / "token")


class _Cluster(msgspec.Struct, frozen=True, rename="kebab"):
    server: str
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    tls_server_name: str = ""
    insecure_skip_tls_verify: bool = False
    proxy_url: str = ""


class _User(msgspec.Struct, frozen=True, rename="kebab"):
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    token: str = ""
    token_file: str = msgspec.field(name="tokenFile", default="")
    exec: Any = None
    auth_provider: Any = None
    username: str = ""


class _Context(msgspec.Struct, frozen=True):
    cluster: str
    user: str = ""


class _NamedCluster(msgspec.Struct, frozen=True):
    name: str
    cluster: _Cluster


class _NamedUser(msgspec.Struct, frozen=True):
    name: str
    user: _User


class _NamedContext(msgspec.Struct, frozen=True):
    name: str
    context: _Context


class _Kubeconfig(msgspec.Struct, frozen=True, rename="kebab"):
    current_context: str = ""
    clusters: tuple[_NamedCluster, ...] = ()
    users: tuple[_NamedUser, ...] = ()
    contexts: tuple[_NamedContext, ...] = ()


def kubeconfig(path: Path, context: str = "") -> Access:
    """Return the access that a kubeconfig describes.

    Args:
        path: The file.
        context: The context; the file's current one if empty.

    Raises:
        AccessError: It cannot be read, or wants what we do not do.
    """
    try:
        file = msgspec.yaml.decode(read(path), type=_Kubeconfig)
    except msgspec.DecodeError as error:
        raise AccessError(f"{path}: not a kubeconfig: {error}") from error
    except ImportError as error:
        raise AccessError(f"{path}: a kubeconfig needs the extra [kubernetes]") from error
    name = context or file.current_context
    chosen = next((c.context for c in file.contexts if c.name == name), None)
    cluster = next((c.cluster for c in file.clusters if chosen and c.name == chosen.cluster), None)
    user = next((u.user for u in file.users if chosen and u.name == chosen.user), _User())
    if cluster is None:
        raise AccessError(f"{path}: has no context {name!r} with a cluster")
    return _access(path, cluster, user)


def _access(path: Path, cluster: _Cluster, user: _User) -> Access:
    if cluster.insecure_skip_tls_verify:
        raise AccessError(f"{path}: insecure-skip-tls-verify is refused; give the certificate authority")
    if cluster.proxy_url or user.exec or user.auth_provider or user.username:
        raise AccessError(f"{path}: proxy-url, exec, auth-provider and username are not supported")
    url = urlsplit(cluster.server)
    if url.scheme != "https" or not url.hostname:
        raise AccessError(f"{path}: server has to be an https URL")

    def source(data: str, file: str) -> Source:
        try:
            return base64.b64decode(data, validate=True) if data else path.parent / file if file else None
        except binascii.Error as error:
            raise AccessError(f"{path}: data is not base64") from error

    return Access(
        url.hostname,
        url.port or HTTPS_PORT,
        ca=source(cluster.certificate_authority_data, cluster.certificate_authority),
        certificate=source(user.client_certificate_data, user.client_certificate),
        key=source(user.client_key_data, user.client_key),
        token=user.token.encode() or source("", user.token_file),
        server_name=cluster.tls_server_name,
        prefix=url.path.rstrip("/"),
    )
