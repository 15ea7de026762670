# SPDX-License-Identifier: Apache-2.0
"""AWS's API as far as it is asked about instances: EC2, IAM and STS, by their query protocol."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

SIGNED = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([A-Z]+)/[0-9]{8}/([a-z0-9-]+)/([a-z0-9]+)/aws4_request, "
    r"SignedHeaders=[a-z0-9;-]+, Signature=[0-9a-f]{64}"
)
ACCOUNT = "123456789012"
INSTANCE = "i-1234567890abcdef0"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/web/Blog"
PROFILE = f"arn:aws:iam::{ACCOUNT}:instance-profile/web/Blogs"


def xml(value):
    """A value as the query protocol writes it: a dict by its names, a list as what its caller named."""
    if isinstance(value, dict):
        return "".join(f"<{name}>{xml(inner)}</{name}>" for name, inner in value.items())
    if isinstance(value, list):
        return "".join(f"<item>{xml(inner)}</item>" for inner in value)
    return escape(value)


class Aws:
    """One instance with its profile; what it is may be changed, and what is answered instead of it.

    Requests have to be signed, for the right service and region, by a key that is known; `requests` keeps
    the action, the key and the region of each.
    """

    def __init__(self):
        self.state, self.owner, self.instance_id = "running", ACCOUNT, INSTANCE
        self.tags = {"Name": "web-1", "aws:autoscaling:groupName": "web", "secret": "x"}
        self.groups = {"sg-01234567": "blog"}
        self.profile, self.profile_answered, self.roles = PROFILE, PROFILE, [ROLE]
        self.instances = 1
        self.instead = {}  # by action: status and body
        self.requests = []
        self.held = threading.Event()  # cleared, requests hang
        self.held.set()
        self.now, self.most = 0, 0
        self._counting = threading.Lock()

    def __enter__(self):
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                status, answer = fake.counted(dict(parse_qsl(body)), self.headers)
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                """Clients that have waited long enough hang up."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.held.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def counted(self, query, headers):
        with self._counting:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            self.held.wait(60)
            return self.answer(query, headers)
        finally:
            with self._counting:
                self.now -= 1

    def answer(self, query, headers):
        action = query["Action"]
        signed = SIGNED.fullmatch(headers["Authorization"] or "")
        service = {"DescribeInstances": "ec2", "GetInstanceProfile": "iam", "AssumeRole": "sts"}[action]
        if signed is None or signed[3] != service or signed[1] not in ("OWN", "ASSUMED"):
            return 403, error("AuthFailure")
        if (signed[1] == "ASSUMED") != (headers["X-Amz-Security-Token"] == "token"):
            return 403, error("AuthFailure")
        self.requests.append((action, signed[1], signed[2]))
        if action in self.instead:
            return self.instead[action]
        return getattr(self, action)(query)

    def AssumeRole(self, query):
        assert query["RoleArn"] == f"arn:aws:iam::{ACCOUNT}:role/issuer/Reader"
        given = {"AccessKeyId": "ASSUMED", "SecretAccessKey": "s", "SessionToken": "token"}
        given["Expiration"] = "2099-01-01T00:00:00Z"
        return ok("AssumeRoleResponse", {"AssumeRoleResult": {"Credentials": given}})

    def DescribeInstances(self, query):
        assert query["InstanceId.1"] == INSTANCE
        assert "InstanceId.2" not in query
        instance = {
            "instanceId": self.instance_id,
            "instanceState": {"code": "16", "name": self.state},
            "tagSet": [{"key": key, "value": value} for key, value in self.tags.items()],
            "groupSet": [{"groupId": i, "groupName": name} for i, name in self.groups.items()],
        }
        if self.profile:
            instance["iamInstanceProfile"] = {"arn": self.profile, "id": "AIPA"}
        reservation = {"ownerId": self.owner, "instancesSet": [instance] * self.instances}
        return ok("DescribeInstancesResponse", {"reservationSet": [reservation]})

    def GetInstanceProfile(self, query):
        assert query["InstanceProfileName"] == "Blogs"
        roles = "".join(f"<member>{xml({'Arn': role})}</member>" for role in self.roles)
        inner = (
            f"<InstanceProfile>{xml({'Arn': self.profile_answered})}<Roles>{roles}</Roles></InstanceProfile>"
        )
        name = "GetInstanceProfile"
        return 200, f"<{name}Response><{name}Result>{inner}</{name}Result></{name}Response>".encode()


def ok(name, value):
    return 200, xml({name: value}).encode()


def error(code):
    """An error as EC2 writes it."""
    return xml({"Response": {"Errors": {"Error": {"Code": code, "Message": "no"}}}}).encode()
