"""A model's place-holder: the interface of a chat model with tools, scripted.

It answers by what the last tool call printed, so the loop that talks to it is
the real one; put a real model's address in its place and nothing else changes.
"""
import http.server
import json
import threading

BROKEN = "def fib(n):\n    return fib(n - 1) + fib(n - 2)\nprint(fib(20))\n"
FIXED = "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\nprint(fib(20))\n"


def decide(messages):
    """The scripted model: a text, or calls of tools."""
    last = messages[-1]
    if last["role"] == "user":
        return [("write_file", {"path": "/root/fib.py", "content": BROKEN}), ("shell", {"command": "python3 /root/fib.py"})]
    said = last["content"]
    if "RecursionError" in said:
        return [("write_file", {"path": "/root/fib.py", "content": FIXED}), ("shell", {"command": "python3 /root/fib.py"})]
    if "no answer" in said:
        number = next(m["content"].split()[-1] for m in messages if m["content"] and m["content"].startswith("exit code 0"))
        return f"The 20th Fibonacci number is {number}. Nothing else is within my reach."
    if said.startswith("exit code 0"):
        # What a poisoned page might have talked it into.
        return [("shell", {"command": "curl -s -m 5 http://169.254.169.254/latest/meta-data || echo no answer"})]
    return f"I am lost: {said!r}"


class Chat(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        decided = decide(request["messages"])
        message = {"role": "assistant", "content": None}
        if isinstance(decided, str):
            message["content"] = decided
        else:
            message["tool_calls"] = [
                {"id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
                for n, (name, arguments) in enumerate(decided)
            ]
        body = json.dumps({"choices": [{"message": message}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve():
    """Starts it on a free port of loopback; gives back its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/v1/chat/completions"
