# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes API server and a kubelet as small real HTTPS servers, as far as we speak to them.

`tests/contracts/test_kubernetes.py` holds the API server to what a real one does.
"""

import base64
import contextlib
import copy
import hashlib
import hmac
import json
import ssl
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ADMIN = "admin-token"
CONTINUE_AFTER = 500
KINDS = {"pods": "Pod", "namespaces": "Namespace"}


class Refusal(Exception):
    def __init__(self, code, reason, message=""):
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message or reason


def pod(
    name, *, namespace="default", node="node-1", account="booking", uid=None, containers=("app",), **more
):
    """A running pod as a kubelet tells it; `more` are labels."""
    uid = uid or str(uuid.uuid5(uuid.NAMESPACE_OID, f"{namespace}/{name}"))
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": uid,
            "labels": {key.replace("_", "-"): value for key, value in more.items()},
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "nodeName": node,
            "serviceAccountName": account,
            "containers": [{"name": c, "image": image_of(c)} for c in containers],
        },
        "status": {
            "phase": "Running",
            "hostIP": "10.0.0.1",
            "containerStatuses": [status(c, container_id(f"{uid}/{c}")) for c in containers],
        },
    }


def image_of(container):
    return f"registry.example.org/{container}:1"


def container_id(seed):
    return hashlib.sha256(seed.encode()).hexdigest()


def status(container, identifier):
    digest = hashlib.sha256(image_of(container).encode()).hexdigest()
    return {
        "name": container,
        "image": image_of(container),
        "imageID": f"registry.example.org/{container}@sha256:{digest}",
        "containerID": f"containerd://{identifier}",
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
    }


class Store:
    """Pods, nodes, accounts and namespaces, with every change kept for watches."""

    def __init__(self):
        self.lock = threading.Condition()
        self.objects = {"pods": {}, "nodes": {}, "serviceaccounts": {}, "namespaces": {}}
        self.version = 100
        self.compacted = 50  # watches from before are refused
        self.events = []
        self.secret = b"service account key"
        self.now = lambda: datetime.now(UTC)
        self.namespace("default")

    def namespace(self, name, **labels):
        """Create or replace a namespace; every one has a label with its name."""
        meta = {"name": name, "labels": {**labels, "kubernetes.io/metadata.name": name}}
        return self.put("namespaces", {"kind": "Namespace", "apiVersion": "v1", "metadata": meta})

    def put(self, kind, value):
        """Create or replace an object, whatever its state."""
        with self.lock:
            value = copy.deepcopy(value)
            meta = value["metadata"]
            meta.setdefault("uid", str(uuid.uuid4()))
            self.version += 1
            meta["resourceVersion"] = str(self.version)
            key = (meta.get("namespace", ""), meta["name"])
            before = self.objects[kind].get(key)
            self.objects[kind][key] = value
            self._record(kind, before, value)
            return copy.deepcopy(value)

    def remove(self, kind, namespace, name):
        with self.lock:
            before = self.objects[kind].pop((namespace, name), None)
            if before is None:
                raise Refusal(404, "NotFound", f'{kind} "{name}" not found')
            self.version += 1
            before["metadata"]["resourceVersion"] = str(self.version)
            self._record(kind, before, None)

    def get(self, kind, namespace, name):
        with self.lock:
            try:
                return copy.deepcopy(self.objects[kind][namespace, name])
            except KeyError:
                raise Refusal(404, "NotFound", f'{kind} "{name}" not found') from None

    def compact(self):
        """Forget old versions: etcd does so every few minutes. Running watches are told."""
        with self.lock:
            self.version += 1
            self.compacted = self.version
            self.events = []
            self.lock.notify_all()

    def _record(self, kind, before, after):
        self.events.append((self.version, kind, copy.deepcopy(before), copy.deepcopy(after)))
        self.lock.notify_all()

    def token(self, namespace, account, audiences, lifetime, bound):
        claims = {
            "aud": audiences,
            "exp": (self.now() + timedelta(seconds=lifetime)).timestamp(),
            "sub": f"system:serviceaccount:{namespace}:{account}",
            "pod": bound,
        }
        body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
        return f"e30.{body}.{self._mac(body)}"

    def _mac(self, body):
        return hmac.new(self.secret, body.encode(), "sha256").hexdigest()

    def review(self, token, audiences):
        audiences = audiences or ["https://kubernetes.default.svc"]
        try:
            claims = self._claims(token, audiences)
        except ValueError as error:
            return {"user": {}, "error": f"[invalid bearer token, {error}]"}
        extra = {}
        if claims["pod"]:
            extra = {
                "authentication.kubernetes.io/pod-name": [claims["pod"]["name"]],
                "authentication.kubernetes.io/pod-uid": [claims["pod"]["uid"]],
            }
        return {
            "authenticated": True,
            "user": {"username": claims["sub"], "groups": ["system:serviceaccounts"], "extra": extra},
            "audiences": [a for a in audiences if a in claims["aud"]],
        }

    def _claims(self, token, audiences):
        try:
            _, body, mac = token.split(".")
            claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        except ValueError:
            raise ValueError("not a token") from None
        if not hmac.compare_digest(mac, self._mac(body)):
            raise ValueError("bad signature")
        if claims["exp"] <= self.now().timestamp():
            raise ValueError("service account token has expired")
        if not set(claims["aud"]) & set(audiences):
            raise ValueError(
                f"token audiences {claims['aud']} is invalid for the target audiences {audiences}"
            )
        namespace = claims["sub"].split(":")[2]
        if claims["pod"]:
            with self.lock:
                found = self.objects["pods"].get((namespace, claims["pod"]["name"]))
            if found is None or found["metadata"]["uid"] != claims["pod"]["uid"]:
                raise ValueError("service account token has been invalidated")
        return claims


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, *_):
        pass

    def _answer(self, method):
        server = self.server.owner
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        size = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(size)) if size else None
        server.calls.append((method, self.path))
        try:
            if server.fault is not None:
                server.fault(self)
                return
            if server.token is not None and self.headers.get("authorization") != f"Bearer {server.token}":
                raise Refusal(401, "Unauthorized")
            server.serve(self, method, url.path, query, body)
        except Refusal as refused:
            self.send(
                refused.code,
                {
                    "kind": "Status",
                    "status": "Failure",
                    "code": refused.code,
                    "reason": refused.reason,
                    "message": refused.message,
                },
            )
        except (ConnectionError, ssl.SSLError):
            self.close_connection = True

    def do_GET(self):
        self._answer("GET")

    def do_POST(self):
        self._answer("POST")

    def do_PUT(self):
        self._answer("PUT")

    def do_DELETE(self):
        self._answer("DELETE")

    def send(self, code, value):
        content = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def chunk(self, content):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
        self.wfile.flush()


class _Server:
    """One HTTP or HTTPS server on loopback. `fault`, if set, is called with each request instead."""

    def __init__(self, authority=None, *, names=("127.0.0.1",), token=ADMIN):
        self.fault = None
        self.token = token
        self.calls = []
        self.stopping = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.daemon_threads = True
        self._http.owner = self
        if authority is not None:
            self._context = authority.server_context(names)
            self._http.socket = self._context.wrap_socket(
                self._http.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def require_certificate(self, authority):
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.load_verify_locations(cadata=authority.pem.decode())

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)


class Kubelet(_Server):
    """Port 10250 with an authority, port 10255 without."""

    def __init__(self, pods=(), authority=None, **more):
        super().__init__(authority, **{"token": None if authority is None else "node-token"} | more)
        self.pods = list(pods)

    def serve(self, request, method, path, query, body):
        if (method, path) != ("GET", "/pods"):
            raise Refusal(404, "NotFound")
        request.send(200, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": self.pods or None})


class ApiServer(_Server):
    """See the module."""

    def __init__(self, authority, **more):
        super().__init__(authority, **more)
        self.authority = authority
        self.store = Store()

    def kubeconfig(self, folder):
        """Write how the administrator reaches this server; return the file."""
        (folder / "ca.crt").write_bytes(self.authority.pem)
        cluster = {"server": f"https://127.0.0.1:{self.port}", "certificate-authority": "ca.crt"}
        document = {
            "current-context": "x",
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": ADMIN}}],
        }
        path = folder / "kubeconfig"
        path.write_text(json.dumps(document))
        return path

    def serve(self, request, method, path, query, body):
        parts = path.strip("/").split("/")
        match method, parts:
            case "GET", ["api", "v1", ("pods" | "namespaces") as kind] if query.get("watch") == "true":
                self._watch(request, kind, query)
            case "GET", ["api", "v1", ("pods" | "namespaces") as kind]:
                request.send(200, self._list(kind, query))
            case "GET", ["api", "v1", "nodes", name]:
                request.send(200, self.store.get("nodes", "", name))
            case "GET", ["api", "v1", "namespaces", namespace, ("pods" | "serviceaccounts") as kind, name]:
                request.send(200, self.store.get(kind, namespace, name))
            case "POST", ["api", "v1", "namespaces"]:
                labels = body["metadata"].get("labels", {})
                request.send(201, self.store.namespace(body["metadata"]["name"], **labels))
            case "POST", ["api", "v1", "nodes"]:
                request.send(201, self.store.put("nodes", body))
            case "POST", ["api", "v1", "namespaces", namespace, ("pods" | "serviceaccounts") as kind]:
                request.send(201, self._create(kind, namespace, body))
            case "PUT", ["api", "v1", "namespaces", namespace, "pods", name, "status"]:
                found = self.store.get("pods", namespace, name)
                found["status"] = body["status"]
                request.send(200, self.store.put("pods", found))
            case "DELETE", ["api", "v1", "namespaces", namespace, "pods", name]:
                request.send(200, self._delete(namespace, name, query))
            case "DELETE", ["api", "v1", ("nodes" | "namespaces") as kind, name]:
                self.store.remove(kind, "", name)
                request.send(200, {})
            case "POST", ["api", "v1", "namespaces", namespace, "serviceaccounts", account, "token"]:
                request.send(201, self._token(namespace, account, body))
            case "POST", ["apis", "authentication.k8s.io", "v1", "tokenreviews"]:
                spec = body["spec"]
                request.send(201, {**body, "status": self.store.review(spec["token"], spec.get("audiences"))})
            case _:
                raise Refusal(404, "NotFound", f"the server has no {path}")

    def _create(self, kind, namespace, body):
        meta = {"namespace": namespace, **body["metadata"], "uid": str(uuid.uuid4())}
        if kind == "pods":
            body = {**body, "status": {"phase": "Pending"}}
        return self.store.put(kind, {**body, "metadata": meta})

    def _delete(self, namespace, name, query):
        found = self.store.get("pods", namespace, name)
        grace = int(query.get("gracePeriodSeconds", 30))
        end = self.store.now() + timedelta(seconds=grace)
        found["metadata"]["deletionTimestamp"] = end.strftime("%Y-%m-%dT%H:%M:%SZ")
        found = self.store.put("pods", found)
        if grace == 0:
            self.store.remove("pods", namespace, name)
        return found

    def _token(self, namespace, account, body):
        self.store.get("serviceaccounts", namespace, account)
        spec = body["spec"]
        bound = spec.get("boundObjectRef")
        if bound:
            found = self.store.get("pods", namespace, bound["name"])
            if found["spec"]["serviceAccountName"] != account:
                raise Refusal(422, "Invalid", "cannot bind token for another service account's pod")
            bound = {"name": bound["name"], "uid": found["metadata"]["uid"]}
        token = self.store.token(namespace, account, spec["audiences"], spec["expirationSeconds"], bound)
        return {**body, "status": {"token": token}}

    def _list(self, kind, query):
        with self.store.lock:
            wanted = _selected(query)
            found = sorted((key, value) for key, value in self.store.objects[kind].items() if wanted(value))
            start = 0
            if "continue" in query:
                version, start = map(int, query["continue"].split("-"))
                if version < self.store.compacted:
                    raise Refusal(410, "Expired", "the provided continue parameter is too old")
            end = start + int(query.get("limit", CONTINUE_AFTER))
            meta = {"resourceVersion": str(self.store.version)}
            if end < len(found):
                meta["continue"] = f"{self.store.version}-{end}"
            items = [copy.deepcopy(value) for _, value in found[start:end]]
        return {"kind": f"{KINDS[kind]}List", "apiVersion": "v1", "metadata": meta, "items": items}

    def _watch(self, request, kind, query):
        store, wanted, sent = self.store, _selected(query), int(query["resourceVersion"])
        if sent < store.compacted:
            raise Refusal(410, "Expired", f"too old resource version: {sent} ({store.compacted})")
        request.send_response(200)
        request.send_header("transfer-encoding", "chunked")
        request.end_headers()
        request.wfile.flush()
        ends = time.monotonic() + int(query.get("timeoutSeconds", 300))
        while not self.stopping.is_set():
            with store.lock:
                if sent < store.compacted:
                    gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
                    request.chunk(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
                    break
                news = [event for event in store.events if event[0] > sent and event[1] == kind]
                if not news and time.monotonic() < ends:
                    store.lock.wait(min(ends - time.monotonic(), 0.2))
                    continue
            for version, _, before, after in news:
                sent = version
                if event := _event(wanted, before, after):
                    request.chunk(json.dumps(event).encode() + b"\n")
            if time.monotonic() >= ends:
                if query.get("allowWatchBookmarks") == "true":
                    meta = {"resourceVersion": str(sent), "creationTimestamp": None}
                    mark = {
                        "kind": KINDS[kind],
                        "apiVersion": "v1",
                        "metadata": meta,
                        "spec": {},
                        "status": {},
                    }
                    if kind == "pods":
                        mark["spec"] = {"containers": None}  # as of an object that has nothing in it
                    request.chunk(json.dumps({"type": "BOOKMARK", "object": mark}).encode() + b"\n")
                break
        with contextlib.suppress(OSError):
            request.wfile.write(b"0\r\n\r\n")


def _event(wanted, before, after):
    was, now = before is not None and wanted(before), after is not None and wanted(after)
    if now:
        return {"type": "MODIFIED" if was else "ADDED", "object": after}
    return {"type": "DELETED", "object": after or before} if was else None


def _selected(query):
    field, _, value = query.get("fieldSelector", "").partition("=")
    if not field:
        return lambda _: True
    if field != "spec.nodeName":
        raise Refusal(400, "BadRequest", f"field label not supported: {field}")
    return lambda found: found["spec"].get("nodeName", "") == value


class Authority:
    """A certificate authority for the servers of a test."""

    def __init__(self):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes-ca")])
        certificate = self._builder(self.name, self.key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.pem = certificate.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _builder(self, subject, key):
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + timedelta(hours=1))
        )

    def issue(self, names):
        """Return certificate and key, PEM, for host names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        alternatives = []
        for name in names:
            try:
                alternatives.append(x509.IPAddress(ip_address(name)))
            except ValueError:
                alternatives.append(x509.DNSName(name))
        certificate = self._builder(subject, key).add_extension(
            x509.SubjectAlternativeName(alternatives), critical=False
        )
        return (
            certificate.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )

    def server_context(self, names):
        from spiffekit.wire.tls import memory_file

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with memory_file(b"".join(self.issue(names))) as path:
            context.load_cert_chain(path)
        return context
