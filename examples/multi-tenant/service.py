#!/usr/bin/env python3
"""A service with customers in front of Aether: each customer's code runs in a machine of its own.

Aether's own tenants, with quotas, are not built yet: its keys all belong to
the tenant `default`, so it is this service that keeps customers apart.
"""
import hashlib
import hmac
import http.server
import json
import pathlib
import sys
import threading
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from aether import Aether, Refused

MAX_CODE = 64 * 1024
TIME_LIMIT = 3  # seconds per run


class Service:
    """Knows customers by their tokens' hashes, and each one's sandbox."""

    def __init__(self, key, customers):
        self.api = Aether(token=key)
        self.customers = {hashlib.sha256(token.encode()).digest(): name for name, token in customers.items()}
        self.locks = {name: threading.Lock() for name in customers}
        self.sandboxes = {}

    def customer(self, token):
        digest = hashlib.sha256(token.encode()).digest()
        return next((name for known, name in self.customers.items() if hmac.compare_digest(known, digest)), None)

    def run(self, customer, code):
        with self.locks[customer]:  # one sandbox, one run at a time: a fair share for everybody
            if customer not in self.sandboxes:
                self.sandboxes[customer] = self.api.create(
                    image="python:3.11",
                    network="none",
                    resources={"memory_mb": 256, "disk_mb": 1024},
                    ttl="1h",
                    labels={"customer": customer},
                )
            result = self.api.exec(self.sandboxes[customer], "python3", "-", stdin=code, timeout=TIME_LIMIT)
        return {"exit_code": result["exit_code"], "stdout": result["stdout"], "stderr": result["stderr"]}

    def close(self):
        for sandbox in self.sandboxes.values():
            self.api.destroy(sandbox)


def serve(service):
    class Door(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            # The customer comes from the token alone, never from what the request says.
            customer = service.customer(self.headers.get("Authorization", "").removeprefix("Bearer "))
            length = int(self.headers.get("Content-Length", 0))
            if customer is None:
                return self.answer(401, {"error": "unknown token"})
            if length > MAX_CODE:
                return self.answer(413, {"error": "too much code"})
            try:
                self.answer(200, service.run(customer, self.rfile.read(length).decode()))
            except Refused as refused:
                self.answer(504 if refused.code == "TIMEOUT" else 502, {"error": refused.code})

        def answer(self, status, document):
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/run"


def ask(url, token, code):
    request = urllib.request.Request(url, code.encode(), {"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=180) as answer:
            result = json.load(answer)
            return (result["stdout"] + result["stderr"]).strip().splitlines()[-1]
    except urllib.error.HTTPError as error:
        return f"{error.code} {json.load(error)['error']}"


def main():
    # The service gets a key that can do what it must and no more: it reads no env, makes no keys.
    admin = Aether()
    scopes = ["agent:create", "agent:read", "agent:exec", "agent:delete"]
    key = admin.call("POST", "/v1/auth/keys", {"name": "example-service", "role": "developer", "scopes": scopes})
    service = Service(key["key"], {"ann": "token-of-ann", "bob": "token-of-bob"})
    url = serve(service)
    try:
        print("ann:    ", ask(url, "token-of-ann", "open('/root/secret', 'w').write('42'); print('ann wrote a secret')"))
        print("bob:    ", ask(url, "token-of-bob", "print(open('/root/secret').read())"))
        print("ann:    ", ask(url, "token-of-ann", "print(open('/root/secret').read())"))
        print("mallory:", ask(url, "a-guess", "print('in')"))
        print("bob:    ", ask(url, "token-of-bob", "while True: pass"))
        try:
            Aether(token=key["key"]).call("GET", "/v1/auth/keys")
        except Refused as refused:
            print("the service's key, asked for more:", refused.code)
    finally:
        service.close()
        admin.call("DELETE", f"/v1/auth/keys/{key['id']}")
    try:
        Aether(token=key["key"]).call("GET", "/v1/agents")
    except Refused as refused:
        print("the service's key, revoked:", refused.code)


if __name__ == "__main__":
    main()
