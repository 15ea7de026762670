# SPDX-License-Identifier: Apache-2.0
"""Jobs of Slurm, and cgroups that only look like one."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from attestor.errors import WorkloadAttestationError
from attestor.workload.slurm import Config, create
from spiffekit.selector import typo

SCOPE = "/system.slice/slurmstepd.scope"


@dataclass(frozen=True)
class Folder:
    proc: Path


async def attested(folder, text):
    (folder / "cgroup").write_text(text)
    facts = await create(Config()).attest(Folder(folder))
    assert not [s for s in facts.selectors if typo(s)]
    return set(map(str, facts.selectors))


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        (f"{SCOPE}/job_3385/step_batch/slurm", {"slurm:job_id:3385", "slurm:step:batch"}),
        (f"{SCOPE}/job_42/step_0/user/task_0", {"slurm:job_id:42", "slurm:step:0"}),
        (f"{SCOPE}/s5K1KKYAYG5D00/step_0/user/task_0", {"slurm:sluid:s5K1KKYAYG5D00", "slurm:step:0"}),
        (
            "/system.slice/node-1.example_slurmstepd.scope/job_100/step_extern",
            {"slurm:job_id:100", "slurm:step:extern"},
        ),
        (f"{SCOPE}/job_7/step_0+1/user", {"slurm:job_id:7", "slurm:step:0+1"}),
        (f"{SCOPE}/job_7/step_0/user{SCOPE}/job_8/step_1", {"slurm:job_id:7", "slurm:step:0"}),
    ],
)
async def test_a_process_of_a_job_is_named_by_job_and_step(tmp_path, path, wanted):
    assert await attested(tmp_path, f"4:memory:/a\n0::{path}\n") == wanted


@pytest.mark.parametrize(
    "path",
    [
        "/",
        f"{SCOPE}/system",
        f"{SCOPE}/job_7",
        f"{SCOPE}/job_/step_0",
        f"{SCOPE}/job_7x/step_0",
        f"{SCOPE}/job_7/step_",
        f"{SCOPE}/job_\u0667/step_0",
        f"/user.slice/user-1000.slice/user@1000.service{SCOPE}/job_7/step_0",
        f"/..{SCOPE}/job_7/step_0",
        "/system.slice/slurmstepd.scope.d/job_7/step_0",
        "/system.slice/myslurmstepd.scope/job_7/step_0",
        "/system.slice/a/b_slurmstepd.scope/job_7/step_0",
        "/slurm/uid_1000/job_7/step_0",
    ],
)
async def test_what_only_looks_like_a_job_is_none(tmp_path, path):
    assert await attested(tmp_path, f"0::{path}\n") == set()


async def test_only_version_2_of_the_cgroups_counts(tmp_path):
    assert await attested(tmp_path, f"1:name=systemd:{SCOPE}/job_7/step_0\n") == set()


async def test_a_process_that_is_gone_is_a_failure(tmp_path):
    with pytest.raises(WorkloadAttestationError):
        await create(Config()).attest(Folder(tmp_path))
