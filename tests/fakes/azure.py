# SPDX-License-Identifier: Apache-2.0
"""Azure's resource manager and whoever gives tokens for it, for one machine alone and one of a scale set."""

import json
import re
from urllib.parse import parse_qs, unquote, urlsplit

from spiffekit.daemon.http import Peer
from tests.fakes.web import WebServer, ok

SUBSCRIPTION = "d5b40d61-272e-48da-beb9-05f295c42bd6"
TENANT = "ef3e5f13-3c2b-4b1f-9c1e-3a0f6d0c6a11"
ALONE = "bd8e7443-24a0-41f3-b949-8baf4fd1c573"
MEMBER = "bd8e7443-24a0-41f3-b949-8baf4fd1c574"
SECRET = "s3cret&of=the app"
TOKEN = "eyJ0.eyJh.c2ln"
GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/Front-End"
MANAGEMENT, LOGIN, METADATA = "management.azure.com", "login.microsoftonline.com", "169.254.169.254"


def interface(group="sg-1", subnet="default"):
    """A network interface, as it stands in both places."""
    network = f"{GROUP}/providers/Microsoft.Network"
    address = {
        "name": "a",
        "properties": {"subnet": {"id": f"{network}/virtualNetworks/vnet/subnets/{subnet}"}},
    }
    properties = {"ipConfigurations": [address, address], "primary": True}
    if group:
        properties["networkSecurityGroup"] = {"id": f"{network}/networkSecurityGroups/{group}"}
    return {"properties": properties}


class ResourceManager:
    """You get one by `async with`; what it knows can be changed, and `broken` answers instead of it."""

    def __init__(self):
        compute = f"{GROUP}/providers/Microsoft.Compute"
        self.scale_set = {"id": f"{compute}/virtualMachineScaleSets/set-1", "resourceGroup": "front-end"}
        self.alone = {
            "id": f"{compute}/virtualMachines/blog",
            "name": "blog",
            "location": "eastus",
            "tags": {"team": "web", "env": "pro:d", "private": "x"},
            "resourceGroup": "front-end",
            "properties": {"vmId": ALONE, "hardwareProfile": {"vmSize": "Standard_B1s"}},
        }
        self.interfaces = [interface(), interface("", "back")]
        self.member = {
            "id": f"{self.scale_set['id']}/virtualMachines/0",
            "name": "set-1_0",
            "location": "eastus",
            "properties": {
                "vmId": MEMBER.upper(),
                "networkProfileConfiguration": {"networkInterfaceConfigurations": [interface()]},
            },
        }
        self.other = {**self.member, "properties": {"vmId": ALONE}}
        self.next_link = f"https://{MANAGEMENT}{self.scale_set['id']}/virtualMachines?page=2"
        self.token = {"access_token": TOKEN, "expires_in": "3599", "token_type": "Bearer"}
        self.truncated = "false"
        self.broken = lambda host, target: False  # what it returns is sent, unless it is False
        self.asked = []
        self.server = WebServer(self.answer)

    async def __aenter__(self):
        await self.server.__aenter__()
        return self

    async def __aexit__(self, *error):
        await self.server.__aexit__(*error)

    def peers(self, api):
        """Whom the issuer connects to."""
        port = self.server.peer.port
        return {
            host: Peer("127.0.0.1", port, server_name=host)
            for host in (api.management_host, api.login_host, METADATA)
        }

    def answer(self, head):
        """Answer as the host does that is asked."""
        method, target, _ = head.split(" ", 2)
        (host,) = re.findall(r"(?i)\r\nhost: (\S+)\r\n", head)
        self.asked.append(f"{method} {host}{unquote(target)}")
        if (broken := self.broken(host, target)) is not False:
            return broken
        if host != MANAGEMENT:
            return self.give_token(host, target, head)
        if f"\r\nauthorization: bearer {TOKEN.lower()}\r\n" not in head.lower():
            return ok('{"error":{"code":"InvalidAuthenticationToken"}}', status="401 Unauthorized")
        return ok(json.dumps(self.page(target) if method == "GET" else self.graph()))

    def give_token(self, host, target, head):
        parts, form = urlsplit(target), parse_qs(self.server.bodies[-1].decode())
        if host == METADATA:
            good = "metadata: true" in head.lower() and parts.path == "/metadata/identity/oauth2/token"
        else:
            shown = form.get("client_secret") or form.get("client_assertion")
            good = shown == [SECRET] and parts.path == f"/{TENANT}/oauth2/v2.0/token"
        return ok(json.dumps(self.token)) if good else ok(f'"{SECRET}"', status="401 Unauthorized")

    def page(self, target):
        """A page of the scale set's instances; the member is on the second."""
        if "page=2" in target:
            return {"value": [self.member]}
        return {"value": [self.other], "nextLink": self.next_link}

    def graph(self):
        """What the graph of resources has; only what is asked for counts."""
        question = json.loads(self.server.bodies[-1])
        assert question["subscriptions"] == [SUBSCRIPTION]
        kind, name = re.findall(r"=~ '([^']*)'", question["query"])
        rows = {
            "microsoft.compute/virtualmachines": [self.alone] if name == ALONE else [],
            "microsoft.compute/virtualmachinescalesets": [self.scale_set] if name == "set-1" else [],
            "microsoft.network/networkinterfaces": self.interfaces if name == self.alone["id"] else [],
        }[kind]
        found = [{"properties": row["properties"]} if "network" in kind else row for row in rows]
        return {"totalRecords": len(found), "data": found, "facets": [], "resultTruncated": self.truncated}
