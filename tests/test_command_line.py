# SPDX-License-Identifier: Apache-2.0
"""Every command and flag that operators and their scripts rely on; the flags are SPIRE's, with two dashes."""

import re

import click
import pytest
from click.testing import CliRunner

from attestor.cli import main as attestor
from issuer.cli import main as issuer

PROGRAMS = {"issuer": issuer, "attestor": attestor}
WIDTH = 100  # columns of the help
ASK = "socketPath output"
ENTRY_FILTERS = (
    "parentID spiffeID selector matchSelectorsOn federatesWith matchFederatesWithOn downstream hint"
)
ENTRY = (
    "parentID spiffeID selector x509SVIDTTL jwtSVIDTTL federatesWith admin downstream entryExpiry dns hint "
    "storeSVID node entryID data"
)
OWNER = "ownerIssuer owner ownerGroup"
LIMITS = "tools audience noAudience maxDepth x509TTL jwtTTL witTTL delegationTTL"
DESCRIPTION = f"purpose sponsor team class reviewBy {LIMITS}"
EVENTS = "type actor resource credential txn since until"
NODE_FILTERS = "attestationType banned canReattest expiresBefore selector matchSelectorsOn"
PROMISED = {
    "issuer run": "config expandEnv",
    "issuer validate": "config expandEnv",
    "issuer healthcheck": "socketPath verbose",
    "issuer token generate": f"spiffeID ttl {ASK}",
    "issuer entry create": f"{ENTRY} strict {ASK}",
    "issuer entry show": f"entryID {ENTRY_FILTERS} table {ASK}",
    "issuer entry update": f"{ENTRY} strict {ASK}",
    "issuer entry delete": f"entryID file {ASK}",
    "issuer entry count": f"{ENTRY_FILTERS} {ASK}",
    "issuer agent register": f"spiffeID {OWNER} {DESCRIPTION} {ASK}",
    "issuer agent update": f"spiffeID reason {DESCRIPTION} {ASK}",
    "issuer agent list": f"state team reviewDue {ASK}",
    "issuer agent show": f"spiffeID {ASK}",
    "issuer agent activate": f"spiffeID reason {ASK}",
    "issuer agent suspend": f"spiffeID reason {ASK}",
    "issuer agent resume": f"spiffeID reason {ASK}",
    "issuer agent retire": f"spiffeID reason successor certificate {ASK}",
    "issuer agent certify": f"spiffeID certificate {ASK}",
    "issuer policy put": f"name file replaces reason {ASK}",
    "issuer policy list": ASK,
    "issuer policy show": f"name version {ASK}",
    "issuer policy delete": f"name reason {ASK}",
    "issuer policy test": f"spiffeID audience tool node level selector imageDigest with without {ASK}",
    "issuer policy simulate": f"since shadow with without {ASK}",
    "issuer policy bundle": ASK,
    "issuer revocation add": f"serial jti spiffeID before reason {ASK}",
    "issuer revocation list": ASK,
    "issuer agent review": f"spiffeID reason reviewBy {ASK}",
    "issuer agent transfer": f"spiffeID reason {OWNER} {ASK}",
    "issuer audit tail": f"lines follow {EVENTS} {ASK}",
    "issuer audit search": f"{EVENTS} id limit {ASK}",
    "issuer audit export": f"{EVENTS} after follow {ASK}",
    "issuer audit witness": "name dir log listen passphraseFile",
    "issuer audit verify": f"dir key witness from to {ASK}",
    "issuer audit prove": f"dir key file {ASK}",
    "issuer audit check-proof": "key witness output",
    "issuer audit checkpoint": f"file {ASK}",
    "issuer audit key": f"file {ASK}",
    "issuer trace": ASK,
    "issuer class put": f"name twoPeople reviewEvery {LIMITS} {ASK}",
    "issuer class list": ASK,
    "issuer class show": f"name {ASK}",
    "issuer class delete": f"name {ASK}",
    "issuer node list": f"{NODE_FILTERS} {ASK}",
    "issuer node show": f"spiffeID {ASK}",
    "issuer node count": f"{NODE_FILTERS} {ASK}",
    "issuer node ban": f"spiffeID {ASK}",
    "issuer node evict": f"spiffeID {ASK}",
    "issuer node purge": f"expiredFor dryRun {ASK}",
    "issuer bundle show": f"format {ASK}",
    "issuer bundle set": f"id path format {ASK}",
    "issuer bundle list": f"id format {ASK}",
    "issuer bundle delete": f"id mode {ASK}",
    "issuer bundle count": ASK,
    "issuer x509 mint": f"spiffeID dns ttl write {ASK}",
    "issuer jwt mint": f"spiffeID audience ttl write {ASK}",
    "issuer completion": "",
    "attestor run": "config expandEnv",
    "attestor validate": "config expandEnv",
    "attestor healthcheck": "socketPath verbose",
    "attestor explain": f"{ASK}",
    "attestor api fetch x509": f"silent timeout write {ASK}",
    "attestor api fetch jwt": f"audience spiffeID timeout {ASK}",
    "attestor api watch": ASK,
    "attestor api validate jwt": f"audience svid timeout {ASK}",
    "attestor completion": "",
}


def commands(command, path):
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from commands(below, f"{path} {name}")
    else:
        yield path, command


COMMANDS = dict(found for name, main in PROGRAMS.items() for found in commands(main, name))


def flags(command):
    return {flag for p in command.params if isinstance(p, click.Option) for flag in p.opts}


@pytest.mark.parametrize("path", PROMISED)
def test_a_command_has_its_flags(path):
    assert {f"--{name}" for name in PROMISED[path].split()} <= flags(COMMANDS[path])


@pytest.mark.parametrize("path", COMMANDS)
def test_a_flag_is_spelled_like_its_neighbours_and_says_what_it_is_for(path):
    for flag in flags(COMMANDS[path]):
        assert re.fullmatch(r"--[a-z][A-Za-z0-9]*", flag)
    for parameter in COMMANDS[path].params:
        assert not isinstance(parameter, click.Option) or parameter.help
    assert COMMANDS[path].help


@pytest.mark.parametrize("path", COMMANDS)
def test_what_answers_an_operator_answers_a_program_too(path):
    """Whoever asks a daemon may ask for JSON; whether it is well is told by the exit status."""
    asks = "--socketPath" in flags(COMMANDS[path])
    assert not asks or "--output" in flags(COMMANDS[path]) or path.endswith("healthcheck")


@pytest.mark.parametrize("path", [*COMMANDS, *PROGRAMS])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_fits_a_terminal(path, flag):
    program, *words = path.split()
    ended = CliRunner(env={"COLUMNS": str(WIDTH)}).invoke(
        PROGRAMS[program], [*words, flag], prog_name=program
    )
    assert ended.exit_code == 0
    assert ended.output.startswith(f"Usage: {path}")
    assert max(map(len, ended.output.splitlines())) <= WIDTH


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("words", [[], ["no-such-command"], ["run", "--no-such-flag"]])
def test_what_the_command_line_lacks_is_status_2(program, words):
    assert CliRunner().invoke(PROGRAMS[program], words).exit_code == 2
