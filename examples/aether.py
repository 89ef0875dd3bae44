"""Aether's HTTP API with nothing but Python's standard library.

A server is `unix:///path` or `http://host:port`, from AETHER_SERVER; the local
socket is the default and knows its callers, elsewhere AETHER_TOKEN holds a key.
"""
import http.client
import json
import os
import socket
from urllib.parse import quote, urlsplit


class Refused(Exception):
    """An error as the API tells it: a code, what is wrong, what to do."""

    def __init__(self, problem):
        super().__init__(f"{problem['detail']} {problem['remedy']}")
        self.code, self.status = problem["code"], problem["status"]


class _OverSocket(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("aether", timeout=120)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Aether:
    def __init__(self, token=None):
        self.server = urlsplit(os.environ.get("AETHER_SERVER", "unix:///run/aether/aether.sock"))
        self.token = token or os.environ.get("AETHER_TOKEN")

    def call(self, method, path, body=None, **headers):
        """One request; JSON both ways, or bytes where the body is bytes."""
        connection = (
            _OverSocket(self.server.path)
            if self.server.scheme == "unix"
            else http.client.HTTPConnection(self.server.netloc, timeout=120)
        )
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if body is not None and not isinstance(body, bytes):
            body, headers["Content-Type"] = json.dumps(body), "application/json"
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content, kind = answer.read(), answer.getheader("Content-Type", "")
        connection.close()
        document = json.loads(content) if "json" in kind else content
        if answer.status >= 400:
            raise Refused(document)
        return document

    def create(self, **spec):
        """An agent that runs when this returns."""
        agent = self.call("POST", "/v1/agents?wait=running", spec)
        if agent["status"] != "running":
            raise RuntimeError(agent.get("error") or f"still {agent['status']}: {agent.get('placement_reason')}")
        return agent["id"]

    def exec(self, agent, *command, stdin=None, timeout=30):
        """Runs a command to its end; the time-out kills it and is Refused with the code TIMEOUT."""
        request = {"command": command, "timeout": timeout}
        if stdin is not None:
            request["stdin"] = stdin
        return self.call("POST", f"/v1/agents/{agent}/exec", request)

    def put(self, agent, path, content):
        self.call("PUT", f"/v1/agents/{agent}/files?path={quote(path)}", content)

    def get(self, agent, path):
        return self.call("GET", f"/v1/agents/{agent}/files?path={quote(path)}")

    def destroy(self, agent):
        self.call("DELETE", f"/v1/agents/{agent}")
