# SPDX-License-Identifier: Apache-2.0
"""Which container a process is in: files of real engines, and what others make of their cgroups."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestor.errors import WorkloadAttestationError
from attestor.workload import cgroups

A, B = "a1" * 32, "b2" * 32
UID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
UID_ = UID.replace("-", "_")
V1 = "9:name=systemd:{0}\n8:pids:{0}\n4:memory:{0}\n2:cpu,cpuacct:{0}\n"
# A hybrid host whose ordinary processes are in a cgroup of the memory hierarchy alone.
IDLE = "9:name=systemd:/\n4:memory:/process_api/" + "5" * 32 + "\n1:cpu:/\n"
SLICE = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice"


def parse(text):
    return cgroups.parse(text.encode())


REAL = {
    "docker, version 1": V1.format(f"/docker/{A}"),
    "docker, version 1, cgroup parent": V1.format(f"/custom.slice/{A}"),
    "docker, hybrid": V1.format(f"/docker/{A}") + f"0::/docker/{A}\n",
    "docker, version 2 beside version 1": IDLE + f"0::/docker/{A}\n",
    "docker, systemd": f"0::/system.slice/docker-{A}.scope\n",
    "podman, cgroupfs": f"0::/libpod_parent/libpod-{A}\n",
    "podman, systemd": f"0::/machine.slice/libpod-{A}.scope/container\n",
    "podman, split": f"0::/system.slice/web.service/libpod-payload-{A}\n",
    "podman, rootless": "0::/user.slice/user-1000.slice/user@1000.service/user.slice"
    f"/libpod-{A}.scope/container\n",
    "containerd, cgroupfs": V1.format(f"/k8s.io/{A}"),
    "containerd, kubelet, systemd": f"0::{SLICE}/cri-containerd-{A}.scope\n",
    "containerd, no systemd driver": f"0::/system.slice/containerd.service/kubepods-burstable-pod{UID_}.slice"
    f":cri-containerd:{A}\n",
    "cri-o": f"0::{SLICE}/crio-{A}.scope\n",
    "kubelet, best effort": V1.format(f"/kubepods/besteffort/pod{UID}/{A}"),
    "kubelet, guaranteed": V1.format(f"/kubepods/pod{UID}/{A}"),
}


@pytest.mark.parametrize("text", REAL.values(), ids=REAL)
def test_a_container_of_a_real_engine_is_found(text):
    found = cgroups.container(parse(text))
    assert found.id == A
    assert all(A in path.rpartition("/")[2] for _, path in found.paths)
    assert {c for c, _ in found.paths} == {c for c, path in parse(text).items() if A in path}


def test_every_process_of_a_container_has_an_equal_one():
    first = cgroups.container(parse(V1.format(f"/docker/{A}") + f"0::/docker/{A}/init.scope\n"))
    other = cgroups.container(parse(V1.format(f"/docker/{A}") + f"0::/docker/{A}/system.slice/x.service\n"))
    assert first == other
    assert dict(first.paths) == dict.fromkeys([*parse(V1.format("/")), ""], f"/docker/{A}")


@pytest.mark.parametrize(
    "path",
    [
        f"/user.slice/user-1000.slice/user@1000.service/docker/{A}",
        f"/docker/{A}/docker/{A}",
        f"/docker2/{A}",
        f"/../docker/{A}",
    ],
)
def test_an_imitated_place_is_another_place(path):
    real = cgroups.container(parse(f"0::/docker/{A}\n"))
    assert (cgroups.container(parse(f"0::{path}\n")) == real) == path.startswith(f"/docker/{A}/")


def test_a_place_in_fewer_or_more_hierarchies_is_another_place():
    both = cgroups.container(parse(f"1:cpu:/docker/{A}\n0::/docker/{A}\n"))
    assert cgroups.container(parse(f"1:cpu:/\n0::/docker/{A}\n")) != both
    assert cgroups.container(parse(f"1:cpu:/docker/{A}\n0::/\n")) != both


def test_the_outermost_segment_counts():
    assert cgroups.container(parse(f"0::/docker/{A}/docker/{B}\n")).id == A
    kind = f"0::/docker/{A}/kubelet/kubepods/pod{UID}/{B}\n"
    assert cgroups.container(parse(kind)).id == A


def test_hierarchies_that_name_different_containers_are_refused():
    with pytest.raises(WorkloadAttestationError, match="different containers"):
        cgroups.container(parse(f"1:cpu:/docker/{A}\n0::/docker/{B}\n"))


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/process_api/" + "5" * 32,
        "/default/t1",
        "/system.slice/web.service",
        f"/machine.slice/libpod-conmon-{A}.scope",
        f"/docker/{A}0",
        f"/docker/{A[:-1]}",
        f"/docker/{A.upper()}",
        f"/docker/x{A}",
        f"/docker/{A}.service",
        f"/docker/{A} ",
        f"/docker/\N{FULLWIDTH DIGIT ONE}{A[1:]}",
    ],
)
def test_what_names_no_container_is_none(path):
    assert cgroups.container(parse(f"0::{path}\n")) is None


def test_colons_in_a_path_are_part_of_it():
    assert cgroups.parse(b"3:name=a:/b:c:d\n") == {"name=a": "/b:c:d"}


def test_bytes_that_are_no_utf_8_are_kept():
    (path,) = cgroups.parse(b"0::/\xff\xfe\r\x0b\n").values()
    assert path.encode("utf-8", "surrogateescape") == b"/\xff\xfe\r\x0b"


@pytest.mark.parametrize(
    "text", [b"x", b"0:/\n", b"0::\n", b"0::a\n", b"a::/\n", b"\n", b"0::/\n\n", b"0::/\n0::/\n"]
)
def test_other_forms_are_refused(text):
    with pytest.raises(WorkloadAttestationError, match="another form"):
        cgroups.parse(text)


def test_a_file_is_read_within_bounds(tmp_path):
    (tmp_path / "cgroup").write_bytes(b"0::/" + b"a" * cgroups.MAX_FILE)
    with pytest.raises(WorkloadAttestationError, match="longer than 65536 bytes"):
        cgroups.read(tmp_path)


def test_a_process_that_is_gone_has_none(tmp_path):
    with pytest.raises(WorkloadAttestationError, match="cannot be read: No such file"):
        cgroups.read(tmp_path)


def test_our_own_file_is_read():
    groups = cgroups.read(Path("/proc/self"))
    assert len(groups) == len(Path("/proc/self/cgroup").read_text().splitlines())


PODS = [
    (f"/kubepods/besteffort/pod{UID}/{A}", ""),
    (f"/kubepods/pod{UID}/{A}/init.scope", ""),
    (f"/kubepods/burstable/pod{UID.replace('-', '')}/crio-{A}", ""),
    (f"{SLICE}/cri-containerd-{A}.scope", ""),
    (f"{SLICE}/docker-{A}.scope/child/kubepods/pod{UID[::-1]}/{B}", ""),
    (f"/kubepods.slice/kubepods-pod{UID_}.slice/crio-{A}.scope", ""),
    (f"/kubelet/kubepods/pod{UID}/{A}", "/kubelet"),
    (
        f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UID_}.slice/cri-containerd-{A}.scope",
        "/kubelet.slice",
    ),
    (
        f"/system.slice/containerd.service/kubepods-besteffort-pod{UID_}.slice:cri-containerd:{A}",
        "/system.slice/containerd.service",
    ),
    (f"/docker/{B}/kubelet/kubepods/pod{UID}/{A}", f"/docker/{B}/kubelet"),
]


@pytest.mark.parametrize(("path", "root"), PODS, ids=range(len(PODS)))
def test_a_pod_is_found(path, root):
    found = cgroups.pod(parse(IDLE + f"0::{path}\n"), root)
    assert (found.uid.replace("-", ""), found.container_id) == (UID.replace("-", ""), A)


@pytest.mark.parametrize("root", ["", "/kubelet", "/user.slice/user-1000.slice/other"])
@pytest.mark.parametrize("path", [path for path, _ in PODS], ids=range(len(PODS)))
def test_a_pod_elsewhere_than_at_the_root_is_none(path, root):
    assert cgroups.pod(parse(f"0::/user.slice/user-1000.slice{path}\n"), root) is None
    assert cgroups.pod(parse(f"0::/..{path}\n"), root) is None
    assert cgroups.pod(parse(f"0::/docker/{B}{path}\n"), root) is None


@pytest.mark.parametrize(
    "path",
    [
        f"/kubepods/pod{UID}",
        f"/kubepods/{A}",
        f"{SLICE}/crio-conmon-{A}.scope",
        f"/kubepods/pod{UID}/crio-conmon-{A}",
    ],
)
def test_what_is_no_container_of_a_pod_is_none(path):
    assert cgroups.pod(parse(f"0::{path}\n")) is None


def test_hierarchies_that_name_different_pods_are_refused():
    with pytest.raises(WorkloadAttestationError, match="different pods"):
        cgroups.pod(parse(f"1:cpu:/kubepods/pod{UID}/{A}\n0::/kubepods/pod{UID}/{B}\n"))


segments = st.sampled_from(
    ["docker", A, B, f"docker-{A}.scope", f"libpod-{B}", "..", "kubepods", f"pod{UID}", "", "user.slice"]
) | st.text(st.characters(blacklist_characters="/\n", blacklist_categories=["Cs"]), max_size=8)
paths = st.lists(segments, max_size=6).map(lambda names: "/" + "/".join(names))


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["", "cpu", "memory", "name=systemd"]), paths))
def test_what_is_written_is_read(groups):
    text = "".join(f"{i}:{c}:{path}\n" for i, (c, path) in enumerate(groups.items()))
    assert parse(text) == groups


@settings(deadline=None)
@given(paths, paths)
def test_nothing_below_a_container_leads_out_of_it(path, below):
    """Whatever a container's process makes of its own cgroup, it stays that container's."""
    outer = cgroups.container({"": path})
    if outer is not None:
        assert cgroups.container({"": path + below}) == outer


@settings(deadline=None)
@given(paths, paths)
def test_a_pod_is_found_only_below_its_root(root, path):
    if cgroups.pod({"": path}, root) is not None:
        assert path.startswith(f"{root}/kubepods")
