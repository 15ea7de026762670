# SPDX-License-Identifier: Apache-2.0
"""The main path on one machine, with real daemons and real processes: `make demo`.

Two agents earn their identities by what they are, talk over mTLS while their certificates rotate, and a third
process is refused. One of them has an owner: it is suspended while it talks, resumed, retired, and traced.
"""

import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from deploy.local import Attestor, Local, executable, free_port, script_environment

EXAMPLES = Path(__file__).resolve().parent
SVID_TTL = "4s"
ROTATIONS = 3
PATIENCE = 30.0  # seconds that any one step may take
BOOKING = ("--spiffeID", "spiffe://example.org/agents/booking")
OWNER = ("--ownerIssuer", "https://idp.example.org", "--owner", "alice")
STARTED = time.monotonic()


def say(text: str, detail: str = "") -> None:
    print(f"{time.monotonic() - STARTED:6.2f} s  {text}", flush=True)
    for line in detail.splitlines():
        print(f"          {line}", flush=True)


class Agent:
    """A process of its own, from an executable of its own; its lines arrive with their time."""

    def __init__(self, folder: Path, name: str, program: str, attestor: Attestor, *arguments: str) -> None:
        self.name = name
        self.path = executable(folder / "bin", name)
        self._lines: queue.Queue[tuple[float, str]] = queue.Queue()
        self._command = [str(self.path), str(EXAMPLES / program), *arguments]
        self._environment = script_environment(SPIFFE_ENDPOINT_SOCKET=attestor.endpoint)
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> int:
        self._process = subprocess.Popen(
            self._command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        threading.Thread(target=self._read, daemon=True).start()
        return self._process.pid

    def _read(self) -> None:
        for line in self._process.stdout:
            self._lines.put((time.monotonic(), line.strip()))
        self._lines.put((time.monotonic(), "ended: " + self._process.stderr.read().strip()))

    def until(self, wanted: Callable[[str], bool]) -> tuple[float, str]:
        """Return the next line that is wanted, and when it came."""
        deadline = time.monotonic() + PATIENCE
        while True:
            at, line = self._lines.get(timeout=max(deadline - time.monotonic(), 0.01))
            if wanted(line):
                return at, line
            if line.startswith(("ended", "failed")):
                sys.exit(f"{self.name} {line}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def certificate(line: str) -> bool:
    return line.startswith("certificate")


def answer(line: str) -> bool:
    return line.startswith("answers")


def main() -> None:
    # Not TMPDIR: the path of a Unix socket may have 107 bytes only.
    folder = Path(tempfile.mkdtemp(prefix="sa-demo-", dir="/tmp"))
    folder.chmod(0o755)
    agents: list[Agent] = []
    try:
        with Local(folder, issuer={"issuer": {"default_x509_svid_ttl": SVID_TTL}}) as local:
            show(local, agents)
    finally:
        for agent in agents:
            agent.stop()
        shutil.rmtree(folder, ignore_errors=True)


def show(local: Local, agents: list[Agent]) -> None:
    local.start_issuer()
    say(f"issuer of {local.trust_domain} is ready (port {local.port}, authorities made, registry open)")
    attestor = local.start_attestor()
    say("attestor has proved its node with a join token and serves the Workload API", attestor.node_id)
    port = free_port()
    pricing = Agent(local.folder, "pricing", "pricing_agent.py", attestor, str(port))
    booking = Agent(local.folder, "booking", "booking_agent.py", attestor, str(port))
    shadow = Agent(local.folder, "shadow", "shadow_agent.py", attestor)
    agents += [pricing, booking, shadow]
    for agent in (pricing, booking):
        selectors = [f"unix:uid:{os.getuid()}", f"unix:path:{agent.path}"]
        local.register(f"/agents/{agent.name}", attestor.node_id, *selectors)
        say(f"registered spiffe://{local.trust_domain}/agents/{agent.name}", "\n".join(selectors))
    local.operator("agent", "register", *BOOKING, *OWNER, "--purpose", "books trips that people approved")
    step(local, "activate", "approved in CHG-4711")
    say("booking has an owner, and is approved", f"{OWNER[1]}|{OWNER[3]}")
    for agent in (pricing, booking):
        began = time.monotonic()
        pid = agent.start()
        at, line = agent.until(certificate)
        say(f"{agent.name} (pid {pid}) has its first SVID, {at - began:.2f} s after exec", line)
        if agent is pricing:
            agent.until(lambda line: line == "listening")
    _, line = booking.until(answer)
    say("booking and pricing talk over mTLS, each knows the other's SPIFFE ID", line)
    talk_through_rotations(booking)
    refuse(shadow, attestor)
    take_back(local, booking)
    say("done: no secret was handed to anybody, and none was left on the disk of an agent")


def talk_through_rotations(booking: Agent) -> None:
    answers = 0

    def counting(line: str) -> bool:
        nonlocal answers
        answers += answer(line)
        return certificate(line)

    for number in range(1, ROTATIONS + 1):
        _, line = booking.until(counting)
        booking.until(answer)  # on the connection that was there before, and on a new one
        say(f"rotation {number} of {ROTATIONS}: new key and certificate, {answers} answers, none lost", line)


def refuse(shadow: Agent, attestor: Attestor) -> None:
    pid = shadow.start()
    _, line = shadow.until(lambda line: line.startswith("refused"))
    say(f"shadow (pid {pid}) matches no entry and is refused", line.removeprefix("refused "))
    say(f"attestor explain {pid}", attestor.explain(pid).strip())


def take_back(local: Local, booking: Agent) -> None:
    began = time.monotonic()
    step(local, "suspend", "books twice")
    suspended = time.monotonic()
    at, _ = booking.until(lambda line: line == "identity taken back")
    say(
        f"booking is suspended; its stream ended {(at - began) * 1000:.0f} ms after the command "
        f"was typed ({max(at - suspended, 0) * 1000:.0f} ms after it returned)"
    )
    if at - began > 5:
        sys.exit("the identity was taken back too late")
    step(local, "resume", "mended")
    _, line = booking.until(certificate)
    booking.until(answer)
    say("its owner resumes it, and it talks again", line)
    step(local, "retire", "replaced", "--certificate", str(local.folder / "booking.end"))
    booking.until(lambda line: line == "identity taken back")
    say("retired for ever, with a signed certificate of what is still out there")
    told = local.operator("trace", f"0x{line.split()[1]}").stdout
    say(f"issuer trace 0x{line.split()[1]}", told[told.index("What was done with it:") :].strip())


def step(local: Local, verb: str, reason: str, *options: str) -> None:
    local.operator("agent", verb, *BOOKING, "--reason", reason, *options)


if __name__ == "__main__":
    main()
