# SPDX-License-Identifier: Apache-2.0
"""Who we are to Azure's resource manager: a managed identity of our machine's, or an application."""

import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlencode

import msgspec

from issuer.node.bearer import KeptToken
from spiffekit.daemon.clock import Clock
from spiffekit.daemon.http import HttpError, Peer, request
from spiffekit.daemon.kubernetes.access import AccessError, read

METADATA: Final = "169.254.169.254"  # in every cloud of Azure's
MAX_ANSWER: Final = 8 * 1024 * 1024  # bytes; a page of a scale set has hundreds of instances
MAX_KEPT: Final = 24 * 3600  # seconds that a token is kept, whatever it says
_EARLY: Final = 300  # seconds before its end that a token is no longer used
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]{1,16384}=*", re.ASCII)  # RFC 6750 §2.1
_HOST: Final = re.compile(r"[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})+", re.ASCII)

T = TypeVar("T")


class Api(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node_attestor.azure_imds.tenants."DOMAIN".api]``.

    Attributes:
        allowed_vm_tags: The tags of virtual machines that become selectors.
        client_id: The ID of the application that asks, or of a managed identity; the machine's if left out.
        secret_file: A file whose first line is the application's secret, read when a token is needed.
        token_file: A file of a token that the application trusts (workload identity federation), likewise.
        management_host: Where the resource manager answers, by HTTPS.
        login_host: Where applications get tokens, by HTTPS.
    """

    allowed_vm_tags: tuple[str, ...] = ()
    client_id: str = ""
    secret_file: Path | None = None
    token_file: Path | None = None
    management_host: str = "management.azure.com"
    login_host: str = "login.microsoftonline.com"


class _Token(msgspec.Struct, frozen=True):
    access_token: str
    expires_in: int
    token_type: str


def peers(api: Api) -> dict[str, Peer]:
    """Return whom a configuration has asked, by host."""
    tls = ssl.create_default_context()
    secure = {host: Peer(host, 443, tls) for host in (api.management_host, api.login_host)}
    return {METADATA: Peer(METADATA, 80), **secure}


class AzureAccess:
    """Asks for one tenant; `peers` are whom it connects to, by host."""

    def __init__(self, tenant_id: str, api: Api, peers: Mapping[str, Peer], clock: Clock) -> None:
        self._tenant_id = tenant_id
        self._api = api
        self._peers = peers
        self._token = KeptToken(self._new_token, clock, spare=_EARLY, longest=MAX_KEPT)

    async def manage(self, method: str, target: str, body: bytes = b"") -> bytes:
        """Ask the resource manager.

        Raises:
            HttpError: It, or whoever gives tokens, cannot be asked, or answered with another status than 200.
            AccessError: The file of the secret or the token cannot be read.
        """
        headers = {
            "authorization": f"Bearer {await self._token.current()}",
            "content-type": "application/json",
        }
        return await self._ask(self._api.management_host, method, target, headers, body)

    async def _new_token(self) -> tuple[str, int]:
        token = read_answer(await self._token_answer(), _Token)
        # Checked here, since who refuses a header may say what was in it.
        if token.token_type.lower() != "bearer" or not _TOKEN.fullmatch(token.access_token):
            raise HttpError("token is no bearer token")
        return token.access_token, token.expires_in

    async def _token_answer(self) -> bytes:
        api, resource = self._api, f"https://{self._api.management_host}/"
        proof = _proof(api)
        if not proof:
            query = {"api-version": "2018-02-01", "resource": resource}
            query |= {"client_id": api.client_id} if api.client_id else {}
            target = f"/metadata/identity/oauth2/token?{urlencode(query)}"
            return await self._ask(METADATA, "GET", target, {"metadata": "true"})
        form = {
            "grant_type": "client_credentials",
            "client_id": api.client_id,
            "scope": f"{resource}.default",
        }
        headers = {"content-type": "application/x-www-form-urlencoded"}
        target = f"/{self._tenant_id}/oauth2/v2.0/token"
        return await self._ask(
            api.login_host, "POST", target, headers, urlencode(form | proof).encode("ascii")
        )

    async def _ask(
        self, host: str, method: str, target: str, headers: Mapping[str, str], body: bytes = b""
    ) -> bytes:
        async with request(self._peers[host], method, target, headers=headers, body=body) as answer:
            if answer.status == 401:  # the token counts no longer, whatever it said
                self._token.forget()
            if answer.status != 200:  # a redirect is not followed either; what else it says may be secret
                raise HttpError(f"{host} answered with status {answer.status}")
            return await answer.body(MAX_ANSWER)


def read_answer(answer: bytes, form: type[T]) -> T:
    """Read an answer into the form that it has to have.

    Raises:
        HttpError: It has another one.
    """
    try:
        return msgspec.json.decode(answer, type=form, strict=False)  # expires_in may be a text
    except (ValueError, RecursionError) as error:
        raise HttpError("answer has another form") from error


def _proof(api: Api) -> dict[str, str]:
    """Return what shows that we are the application; nothing where a managed identity asks."""
    if api.secret_file is not None:
        return {"client_secret": _line(api.secret_file)}
    if api.token_file is not None:
        kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"  # RFC 7523 §2.2
        return {"client_assertion_type": kind, "client_assertion": _line(api.token_file)}
    return {}


def _line(path: Path) -> str:
    try:
        line = read(path).split(b"\n", 1)[0].decode("ascii").strip()
    except UnicodeDecodeError:
        raise AccessError(f"{path}: is not ASCII") from None  # it has the bytes
    if not line:
        raise AccessError(f"{path}: the first line is empty")
    return line


def problems(where: str, api: Api) -> list[str]:
    """Return what is wrong with a table, each beginning with where it is."""
    found = []
    if api.secret_file is not None and api.token_file is not None:
        found.append(f"{where}: at most one of secret_file and token_file")
    try:
        if _proof(api) and not api.client_id:
            found.append(f"{where}.client_id: is needed to show that we are an application")
    except AccessError as error:
        found.append(f"{where}: {error}")
    for option, host in (("management_host", api.management_host), ("login_host", api.login_host)):
        if not _HOST.fullmatch(host):
            found.append(f"{where}.{option}: {host!r} is not a host name in lower case")
    return found + [
        f"{where}.allowed_vm_tags: {tag!r} is empty or has a colon: its selector could be read in two ways"
        for tag in api.allowed_vm_tags
        if not tag or ":" in tag
    ]
