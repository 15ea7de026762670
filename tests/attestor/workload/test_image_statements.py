# SPDX-License-Identifier: Apache-2.0
"""Statements about images: about which, and how they were built."""

import json

import pytest

from attestor.errors import SignatureRejectedError
from attestor.workload.image_statements import Provenance, parse, repository
from tests.fakes.sigstore import provenance, statement

DIGEST = "sha256:" + "2e" * 32
LIMIT = 10_000


def read(said, digest=DIGEST):
    return parse(said if isinstance(said, bytes) else json.dumps(said).encode(), digest, LIMIT)


def test_a_signature_says_no_more_than_that():
    found = read(statement(DIGEST))
    assert found.is_signature
    assert found.provenance is None


def test_another_statement_is_no_signature():
    found = read(statement(DIGEST, "https://spdx.dev/Document", {"any": ["thing"]}, version="v0.1"))
    assert not found.is_signature
    assert found.provenance is None


def test_one_of_its_subjects_has_to_be_the_image():
    others = [{"name": "sbom", "digest": {"sha256": "0" * 64}}, {"name": "no digest"}]
    said = statement(DIGEST)
    assert read({**said, "subject": [*others, *said["subject"]]}).is_signature
    for subject in (
        others,
        [],
        [{"name": DIGEST}],
        [{"digest": {"sha256": DIGEST}}],
        [{"digest": {"sha512": "2e" * 32}}],
        [{"digest": {"sha256": "2E" * 32}}],
        [{"digest": {"sha256": "2e" * 31}}],
        [{"digest": {"sha256": "2e" * 32 + " "}}],
    ):
        with pytest.raises(SignatureRejectedError, match=r"^is about something else than the image$"):
            read({**said, "subject": subject})


@pytest.mark.parametrize("version", ["v2", "v1 ", "", "V1"])
def test_another_version_is_refused(version):
    with pytest.raises(SignatureRejectedError, match=r"^is no in-toto statement of a version that is known$"):
        read(statement(DIGEST, version=version))


MALFORMED = {
    "nothing": b"",
    "no JSON": b"{",
    "no object": b"[]",
    "no UTF-8": b'{"\xff": 1}',
    "a name twice": json.dumps(statement(DIGEST)).encode()[:-1] + b',"predicateType":"x"}',
    "a name twice, deep in it": json.dumps(statement(DIGEST)).encode().replace(
        b'"predicate": {}', b'"predicate": {"a": {"b": 1, "b": 2}}'
    ),
    "no subject": {k: v for k, v in statement(DIGEST).items() if k != "subject"},
    "a subject that is none": {**statement(DIGEST), "subject": "all"},
    "too much": statement(DIGEST, note="x" * LIMIT),
    "too deep": b"[" * 9000,
    "a provenance without builder": statement(
        DIGEST, "https://slsa.dev/provenance/v1", {"buildDefinition": {}, "runDetails": {}}
    ),
    "a provenance without run": statement(DIGEST, "https://slsa.dev/provenance/v1", {"buildDefinition": {}}),
    "an old provenance without builder": statement(DIGEST, "https://slsa.dev/provenance/v0.2"),
    "a provenance of nothing": {
        **statement(DIGEST, "https://slsa.dev/provenance/v1"), "predicate": None
    },
    "a builder that is no text": statement(
        DIGEST, "https://slsa.dev/provenance/v0.2", {"builder": {"id": ["a", "b"]}}
    ),
}  # fmt: skip


@pytest.mark.parametrize("said", MALFORMED.values(), ids=MALFORMED)
def test_what_is_malformed_is_refused(said):
    with pytest.raises(SignatureRejectedError, match=r"^is no well-formed statement$"):
        read(said)


def built(parameters):
    said = provenance(DIGEST, "https://builder.example/v1")
    said["predicate"]["buildDefinition"] = {"externalParameters": parameters}
    return read(said).provenance.source


SOURCES = {
    "GitHub": {"workflow": {"ref": "refs/heads/main", "repository": "https://github.com/o/r", "path": "x"}},
    "a generator": {"source": {"uri": "git+https://github.com/o/r@refs/tags/v1", "digest": {}}},
    "a build service": {"buildConfigSource": {"repository": "https://github.com/o/r", "path": "/b.yaml"}},
    "BuildKit": {"configSource": {"uri": "https://github.com/o/r.git#refs/heads/main", "path": "Dockerfile"}},
    "a text": {"source": "git+https://github.com/o/r@refs/tags/v1"},
    "twice the same": {
        "source": {"uri": "git+https://github.com/o/r@v1"},
        "workflow": {"repository": "https://github.com/o/r"},
    },
}


@pytest.mark.parametrize("parameters", SOURCES.values(), ids=SOURCES)
def test_the_source_is_where_builders_name_it(parameters):
    assert built(parameters) == "https://github.com/o/r"


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"workflow": "https://github.com/o/r"},
        {"workflow": {"repository": ["https://github.com/o/r"]}},
        {"resolvedDependencies": [{"uri": "git+https://github.com/o/r"}]},
        {"source": "https://github.com/o/r", "workflow": {"repository": "https://github.com/o/other"}},
    ],
)
def test_a_source_that_is_not_clear_is_none(parameters):
    assert built(parameters) == ""


def test_an_old_provenance_names_its_builder_and_source():
    config = {"uri": "git+https://github.com/o/r@refs/heads/main", "digest": {"sha1": "0" * 40}}
    said = {"builder": {"id": "https://builder.example/v1"}, "invocation": {"configSource": config}}
    found = read(statement(DIGEST, "https://slsa.dev/provenance/v0.2", said, version="v0.1"))
    assert found.provenance == Provenance("https://builder.example/v1", "https://github.com/o/r")
    del said["invocation"]
    found = read(statement(DIGEST, "https://slsa.dev/provenance/v0.2", said, version="v0.1"))
    assert found.provenance == Provenance("https://builder.example/v1", "")


def test_a_level_that_a_builder_states_of_itself_is_not_read():
    found = read(provenance(DIGEST, "https://builder.example/v1", slsaLevel=3, level=3))
    assert found.provenance == Provenance("https://builder.example/v1", "https://git.example.org/web")


@pytest.mark.parametrize(
    ("uri", "url"),
    [
        ("https://github.com/o/r", "https://github.com/o/r"),
        ("https://github.com/o/r/", "https://github.com/o/r"),
        ("https://github.com/o/r.git", "https://github.com/o/r"),
        ("git+https://github.com/o/r.git@refs/heads/a@b", "https://github.com/o/r"),
        ("git+ssh://git@github.com/o/r@v1", "ssh://git@github.com/o/r"),
        ("https://github.com/o/r?x=1", ""),
        ("https://github.com", ""),
        ("https:///o/r", ""),
        ("github.com/o/r", ""),
        ("git@github.com:o/r", ""),
        ("https://github.com/o/r\n", ""),
        ("https://github.com/o r", ""),
        ("", ""),
    ],
)
def test_a_repository_has_one_spelling(uri, url):
    assert repository(uri) == url
