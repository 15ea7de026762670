# SPDX-License-Identifier: Apache-2.0
"""What Azure's resource manager says of a virtual machine that has proved itself.

1. The graph of resources knows each virtual machine by its ID, but for instances of uniform scale sets.
2. Those are looked for in the scale set that the node names, which is where to look and no more.
3. The answer has to be about the machine and the subscription that were attested.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Final, Generic, Literal, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from issuer.errors import NodeRejectedError, PlatformUnavailableError
from issuer.node.azure_access import Api, AzureAccess, read_answer
from spiffekit.daemon.http import HttpError
from spiffekit.daemon.kubernetes.access import AccessError

TIMEOUT: Final = 15.0  # seconds for all that is asked about one machine
MAX_PAGES: Final = 32  # of a scale set, which has up to 1,000 instances
MAX_FACTS: Final = 512  # about one machine
_GRAPH: Final = "/providers/Microsoft.ResourceGraph/resources?api-version=2022-10-01"
_COMPUTE: Final = "2024-07-01"  # version of the API
# Of everything that has a name; no quote can leave a query, and no colon add to a selector.
_NAME: Final = r"[\w.()-]{1,90}"
_GROUP: Final = rf"/subscriptions/[0-9a-f-]{{36}}/resourceGroups/({_NAME})/providers/"


def _ids(kind: str) -> re.Pattern[str]:
    return re.compile(_GROUP + kind.replace(".", r"\.") + f"/({_NAME})", re.IGNORECASE)


_MACHINE: Final = _ids("Microsoft.Compute/virtualMachines")
_SCALE_SET: Final = _ids("Microsoft.Compute/virtualMachineScaleSets")
_SECURITY_GROUP: Final = _ids("Microsoft.Network/networkSecurityGroups")
_SUBNET: Final = _ids(f"Microsoft.Network/virtualNetworks/({_NAME})/subnets")
_MACHINES: Final = (
    "resources | where type =~ 'microsoft.compute/virtualmachines' and properties.vmId =~ '{}'"
    " | project id, name, location, tags, resourceGroup, properties"
)
_SCALE_SETS: Final = (
    "resources | where type =~ 'microsoft.compute/virtualmachinescalesets' and name =~ '{}'"
    " | project id, resourceGroup"
)
_INTERFACES: Final = (
    "resources | where type =~ 'microsoft.network/networkinterfaces'"
    " and properties.virtualMachine.id =~ '{}' | project properties"
)

T = TypeVar("T")


class _Reference(msgspec.Struct, frozen=True):
    id: str


class _Address(msgspec.Struct, frozen=True):
    subnet: _Reference | None = None


class _AddressOf(msgspec.Struct, frozen=True):
    properties: _Address


class _Interface(msgspec.Struct, frozen=True, rename="camel"):
    ip_configurations: tuple[_AddressOf, ...]
    network_security_group: _Reference | None = None


class _InterfaceOf(msgspec.Struct, frozen=True):
    properties: _Interface


class _Network(msgspec.Struct, frozen=True, rename="camel"):
    network_interface_configurations: tuple[_InterfaceOf, ...]


class _Machine(msgspec.Struct, frozen=True, rename="camel"):
    vm_id: str
    virtual_machine_scale_set: _Reference | None = None
    network_profile_configuration: _Network | None = None  # of an instance of a scale set


class _MachineOf(msgspec.Struct, frozen=True):
    id: str
    name: str
    location: str
    properties: _Machine
    tags: dict[str, str] | None = None
    resource_group: str = msgspec.field(name="resourceGroup", default="")  # the graph's alone


class _ScaleSet(msgspec.Struct, frozen=True, rename="camel"):
    id: str
    resource_group: str


class _Rows(msgspec.Struct, Generic[T], frozen=True, rename="camel"):
    data: tuple[T, ...]
    result_truncated: Literal["false"]


class _Page(msgspec.Struct, frozen=True, rename="camel"):
    value: tuple[_MachineOf, ...]
    next_link: str | None = None


class AzureApi:
    """Asks about the machines of one tenant."""

    def __init__(self, access: AzureAccess, api: Api) -> None:
        self._access = access
        self._api = api

    async def facts(self, subscription: str, machine: str, scale_set: str | None) -> frozenset[str]:
        """Return values of selectors that are true of a machine now.

        Args:
            subscription: Its subscription, as attested.
            machine: Its vmId, as attested, in lower case.
            scale_set: In which scale set it may be found, by the node's word.

        Raises:
            NodeRejectedError: Azure knows no such machine.
            PlatformUnavailableError: Azure cannot be asked, or answered with something else.
        """
        try:
            async with asyncio.timeout(TIMEOUT):
                values = await self._facts(subscription, machine, scale_set)
            if len(values) > MAX_FACTS:
                raise HttpError(f"answer has more than {MAX_FACTS} facts")
        except TimeoutError as error:
            raise PlatformUnavailableError(f"Azure did not answer within {TIMEOUT:g} s") from error
        except (HttpError, AccessError) as error:
            raise PlatformUnavailableError(f"Azure cannot be asked about the machine: {error}") from error
        return frozenset(values)

    async def _facts(self, subscription: str, machine: str, scale_set: str | None) -> set[str]:
        found = await self._graph(subscription, _MACHINES.format(machine), _MachineOf)
        if len(found) > 1:
            raise HttpError("answer has several machines of one vmId")
        if found:
            return await self._standing_alone(subscription, machine, found[0])
        if scale_set is not None and re.fullmatch(_NAME, scale_set):
            return await self._in_scale_set(subscription, machine, scale_set)
        raise NodeRejectedError("Azure knows no such machine")

    async def _standing_alone(self, subscription: str, machine: str, found: _MachineOf) -> set[str]:
        values = self._of_machine(subscription, machine, found, found.resource_group)
        if (scale_set := found.properties.virtual_machine_scale_set) is not None:  # a flexible one
            values.add(f"vmss-name:{_parts(_SCALE_SET, scale_set.id)[-1]}")
        _parts(_MACHINE, found.id)
        interfaces = await self._graph(subscription, _INTERFACES.format(found.id), _InterfaceOf)
        return values | _of_interfaces(interfaces)

    async def _in_scale_set(self, subscription: str, machine: str, scale_set: str) -> set[str]:
        for known in await self._graph(subscription, _SCALE_SETS.format(scale_set), _ScaleSet):
            name = _parts(_SCALE_SET, known.id)[-1]
            async for found in self._instances(known.id):
                if found.properties.vm_id.lower() == machine:
                    values = self._of_machine(subscription, machine, found, known.resource_group)
                    network = found.properties.network_profile_configuration
                    interfaces = network.network_interface_configurations if network else ()
                    return values | {f"vmss-name:{name}"} | _of_interfaces(interfaces)
        raise NodeRejectedError("Azure knows no such machine in that scale set")

    def _of_machine(self, subscription: str, machine: str, found: _MachineOf, group: str) -> set[str]:
        if found.properties.vm_id.lower() != machine:
            raise HttpError("answer is about another machine")
        # An instance's ID goes on after its scale set's.
        if not found.id.lower().startswith(f"/subscriptions/{subscription}/"):
            raise HttpError("answer is about a machine of another subscription")
        named = {"vm-name": found.name, "vm-location": found.location, "resource-group": group}
        if not all(re.fullmatch(_NAME, name) for name in named.values()):
            raise HttpError("answer has a name that is none")
        tags = found.tags or {}
        stated = {f"vm-tag:{tag}:{tags[tag]}" for tag in self._api.allowed_vm_tags if tag in tags}
        return stated | {f"{kind}:{name}" for kind, name in named.items()}

    async def _instances(self, scale_set: str) -> AsyncIterator[_MachineOf]:
        host = self._api.management_host
        target = f"{quote(scale_set)}/virtualMachines?{urlencode({'api-version': _COMPUTE})}"
        for _ in range(MAX_PAGES):
            page = read_answer(await self._access.manage("GET", target), _Page)
            for found in page.value:
                yield found
            if not page.next_link:
                return
            link = re.fullmatch(rf"https://{re.escape(host)}(?::443)?(/[!-~]{{1,8192}})", page.next_link)
            if link is None:  # our token goes nowhere else
                raise HttpError("answer goes on at another host")
            target = link[1]
        raise HttpError(f"scale set has more than {MAX_PAGES} pages")

    async def _graph(self, subscription: str, query: str, row: type[T]) -> tuple[T, ...]:
        options = {"resultFormat": "objectArray"}
        question = {"subscriptions": [subscription], "query": query, "options": options}
        answer = await self._access.manage("POST", _GRAPH, msgspec.json.encode(question))
        return read_answer(answer, _Rows[row]).data  # type: ignore[valid-type]  # a class of its own for each row


def _parts(form: re.Pattern[str], identifier: str) -> list[str]:
    """Return the resource group and the names in a resource's ID."""
    match = form.fullmatch(identifier)
    if match is None:
        raise HttpError("answer has the ID of something else")
    return list(match.groups())


def _of_interfaces(interfaces: tuple[_InterfaceOf, ...]) -> set[str]:
    if not interfaces:  # a machine has one: Azure's answer is behind
        raise HttpError("its network interfaces are not known yet")
    values = set()
    for interface in (found.properties for found in interfaces):
        if interface.network_security_group is not None:
            group, name = _parts(_SECURITY_GROUP, interface.network_security_group.id)
            values.add(f"network-security-group:{group}:{name}")
        subnets = [address.properties.subnet for address in interface.ip_configurations]
        for subnet in (found for found in subnets if found is not None):
            _, network, name = _parts(_SUBNET, subnet.id)
            values |= {f"virtual-network:{network}", f"virtual-network-subnet:{network}:{name}"}
    return values
