# SPDX-License-Identifier: Apache-2.0
"""A whole deployment in one folder, for one machine: the demo, the system tests and the benchmarks use it.

It starts the real daemons as processes of their own and speaks to them through their own commands.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

START_WITHIN: Final = 30.0  # seconds until a daemon has to be well
STOP_WITHIN: Final = 10.0  # seconds until it has to be gone
POLL: Final = 0.02  # seconds

Settings = Mapping[str, Any]


class Daemon:
    """One daemon as a process; its output goes to a file."""

    def __init__(self, name: str, folder: Path, config: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.under: Sequence[str] = ()  # the command that runs it, and its arguments so far
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process ID; it has to run."""
        assert self._process is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, or None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def spawn(self, environment: Mapping[str, str] | None = None) -> None:
        """Start the process without waiting for it to be ready."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.under, sys.executable, "-m", self.name, "run", "--config", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
            )

    def wait_until_it_listens(self, path: Path, within: float = START_WITHIN) -> None:
        """Return when the daemon accepts connections at `path`: it listens there only when it is ready."""
        deadline = time.monotonic() + within
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(path))
                except OSError:
                    if self.returncode is not None:
                        raise RuntimeError(
                            f"{self.name} ended with {self.returncode}:\n{self.tail()}"
                        ) from None
                    if time.monotonic() > deadline:
                        raise RuntimeError(f"{self.name} is not ready:\n{self.tail()}") from None
                else:
                    return
            time.sleep(POLL)

    def wait(self, within: float = STOP_WITHIN) -> int:
        """Wait until it ends by itself; return its exit status."""
        assert self._process is not None
        return self._process.wait(within)

    def stop(self) -> None:
        """End it with SIGTERM, or with SIGKILL when it does not listen."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def tail(self, lines: int = 30) -> str:
        """Return the end of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Local(AbstractContextManager["Local"]):
    """An issuer and attestors below one folder. Leaving the context ends every process."""

    def __init__(
        self, folder: Path, *, trust_domain: str = "example.org", issuer: Settings | None = None
    ) -> None:
        self.folder = folder
        self.trust_domain = trust_domain
        self.port = free_port()
        self.issuer_config = folder / "issuer.toml"
        self._issuer_settings = dict(issuer or {})
        own = self._issuer_settings.get("issuer", {})
        self.admin_socket = Path(own.get("admin_socket", folder / "issuer" / "private" / "api.sock"))
        self.issuer = Daemon("issuer", folder, self.issuer_config)
        self.attestors: dict[str, Attestor] = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every process."""
        for attestor in self.attestors.values():
            attestor.daemon.stop()
        self.issuer.stop()

    def start_issuer(self) -> Self:
        """Start the issuer and wait until it is well."""
        (self.folder / "issuer").mkdir(mode=0o700, exist_ok=True)
        tables: dict[str, Settings] = {
            "issuer": {
                "trust_domain": self.trust_domain,
                "data_dir": str(self.folder / "issuer"),
                "bind_address": "127.0.0.1",
                "bind_port": self.port,
                "admin_socket": str(self.admin_socket),
                **self._issuer_settings.get("issuer", {}),
            },
            "key_manager.disk": {"directory": str(self.folder / "issuer" / "keys")},
            "node_attestor.join_token": {},
            **{name: table for name, table in self._issuer_settings.items() if name != "issuer"},
        }
        self.issuer_config.write_text(toml(tables))
        self.issuer.spawn()
        self.issuer.wait_until_it_listens(self.admin_socket)
        return self

    def operator(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run an `issuer` command against this issuer."""
        return run("issuer", *arguments, "--socketPath", str(self.admin_socket), check=check)

    def operator_json(self, *arguments: str) -> Any:
        """Run an `issuer` command and return what it prints as JSON."""
        return json.loads(self.operator(*arguments, "--output", "json").stdout)

    def register(self, path: str, parent: str, *selectors: str, options: Sequence[str] = ()) -> str:
        """Create an entry and return its ID."""
        arguments = ["--spiffeID", f"spiffe://{self.trust_domain}{path}", "--parentID", parent]
        for selector in selectors:
            arguments += ["--selector", selector]
        answer = self.operator_json("entry", "create", *arguments, *options)
        return str(answer["results"][0]["entry"]["id"])

    def start_attestor(
        self, name: str = "attestor", settings: Settings | None = None, *, wait: bool = True
    ) -> "Attestor":
        """Start an attestor with a fresh join token and wait until its Workload API answers."""
        attestor = Attestor(self, name)
        self.attestors[name] = attestor
        attestor.configure(dict(settings or {}))
        attestor.start(wait=wait)
        return attestor


class Attestor:
    """One attestor of a deployment, with its own sockets and state."""

    def __init__(self, deployment: Local, name: str) -> None:
        self.deployment = deployment
        self.folder = deployment.folder / name
        self.socket = self.folder / "public" / "api.sock"
        self.admin_socket = self.folder / "private" / "admin.sock"
        self.config = deployment.folder / f"{name}.toml"
        self.node_id = ""
        self.daemon = Daemon("attestor", deployment.folder, self.config)
        self.daemon.log = deployment.folder / f"{name}.log"

    @property
    def endpoint(self) -> str:
        """The value of SPIFFE_ENDPOINT_SOCKET for workloads of this node."""
        return f"unix://{self.socket}"

    def configure(self, settings: dict[str, Any], *, trusted: str = "") -> None:
        """Write its configuration, and fetch what bootstraps it; not the bundle, PEM, if it is given."""
        deployment = self.deployment
        (self.folder / "public").mkdir(parents=True, exist_ok=True)
        bundle = self.folder / "bundle.pem"
        bundle.write_text(trusted or deployment.operator("bundle", "show").stdout)
        tables: dict[str, Settings] = {
            "attestor": {
                "trust_domain": deployment.trust_domain,
                "issuer_address": "127.0.0.1",
                "issuer_port": deployment.port,
                "data_dir": str(self.folder / "data"),
                "socket_path": str(self.socket),
                "admin_socket": str(self.admin_socket),
                "trust_bundle_path": str(bundle),
                **settings.pop("attestor", {}),
            },
            "key_manager.disk": {"directory": str(self.folder / "keys")},
            "workload_attestor.unix": {"discover_workload_path": True},
        }
        if not any(name.startswith("node_attestor.") for name in settings):
            token = deployment.operator_json("token", "generate")["value"]
            self.node_id = f"spiffe://{deployment.trust_domain}/spire/agent/join_token/{token}"
            tables["node_attestor.join_token"] = {"token": token}
        self.config.write_text(toml({**tables, **settings}))

    def explain(self, pid: int) -> str:
        """Ask the attestor what it sees in a process."""
        return run("attestor", "explain", str(pid), "--socketPath", str(self.admin_socket)).stdout

    def start(self, *, wait: bool = True) -> None:
        """Start the daemon, and wait until it is well unless told not to."""
        self.daemon.spawn()
        if wait:
            self.daemon.wait_until_it_listens(self.socket)


def run(program: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one of our commands; with `check`, failing raises with what it printed."""
    answer = subprocess.run(
        [sys.executable, "-m", program, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    if check and answer.returncode != 0:
        raise RuntimeError(f"{program} {' '.join(arguments)} ended with {answer.returncode}: {answer.stderr}")
    return answer


def executable(folder: Path, name: str) -> Path:
    """Copy this interpreter to `folder`/`name`, so that a script runs as an executable of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / name
    shutil.copy2(Path(sys.executable).resolve(), target)
    return target


def script_environment(**extra: str) -> dict[str, str]:
    """Return the environment in which a copied interpreter finds its library and ours."""
    paths = [str(Path(__file__).resolve().parent.parent), *(p for p in sys.path if p.endswith("-packages"))]
    return {
        **os.environ,
        "PYTHONHOME": sys.base_prefix,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        **extra,
    }


def free_port() -> int:
    """Return a TCP port of the loopback address that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def toml(tables: Mapping[str, Settings]) -> str:
    """Write tables of strings, numbers, truths and lists as TOML."""
    lines = []
    for name, table in tables.items():
        lines.append(f"[{name}]")
        # JSON's strings, numbers, truths and lists are TOML's as well.
        lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        lines.append("")
    return "\n".join(lines)
