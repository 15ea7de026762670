# SPDX-License-Identifier: Apache-2.0
"""Which job and step of Slurm a process belongs to, by its cgroup (version 2)."""

import re
from typing import Final

import msgspec

from attestor.peer import Process
from attestor.workload import Facts, cgroups
from spiffekit.selector import Selector

TYPE: Final = "slurm"
# From the root on: below a tree of its own, a user may name a cgroup like another's job.
_STEP: Final = re.compile(
    r"/system\.slice/(?:[\w.-]+_)?slurmstepd\.scope"
    r"/(?:job_(?P<job_id>[0-9]+)|(?P<sluid>s[0-9A-Za-z]+))"
    r"/step_(?P<step>[0-9]+(?:\+[0-9]+)?|[a-z]+)(?:/.*)?",
    re.ASCII | re.DOTALL,
)


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[workload_attestor.slurm]``: nothing to configure."""


class SlurmAttestor:
    """See the module."""

    type = TYPE

    async def attest(self, process: Process) -> Facts:
        """Return job_id or sluid, and step; nothing for a process that is in no job.

        Raises:
            WorkloadAttestationError: The cgroup of the process cannot be read.
        """
        match = _STEP.fullmatch(cgroups.read(process.proc).get("", ""))
        found = match.groupdict() if match else {}
        return Facts(frozenset(Selector(TYPE, f"{kind}:{value}") for kind, value in found.items() if value))


def create(config: Config) -> SlurmAttestor:  # noqa: ARG001 - plug-ins take their table
    """Make the attestor of a configuration table."""
    return SlurmAttestor()
