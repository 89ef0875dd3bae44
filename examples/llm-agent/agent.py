#!/usr/bin/env python3
"""An LLM agent: the loop and the model's key stay outside, only tool calls run in the sandbox."""
import json
import os
import pathlib
import sys
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
import model
from aether import Aether, Refused

MAX_TURNS = 8
MAX_OUTPUT = 4000  # characters of a tool's output that the model is shown
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": about,
            "parameters": {"type": "object", "properties": {p: {"type": "string"} for p in names}, "required": names},
        },
    }
    for name, about, names in [
        ("shell", "Run a shell command in your sandbox", ["command"]),
        ("write_file", "Write a file in your sandbox", ["path", "content"]),
    ]
]


def ask(url, messages):
    body = json.dumps({"model": "scripted", "messages": messages, "tools": TOOLS}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get('MODEL_KEY', 'none')}"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=120) as answer:
        return json.load(answer)["choices"][0]["message"]


def use_tool(api, sandbox, name, arguments):
    """What the model gets to read. Every failure is an answer, never the loop's end."""
    try:
        if name == "write_file":
            api.put(sandbox, arguments["path"], arguments["content"].encode())
            return "written"
        if name == "shell":
            result = api.exec(sandbox, "sh", "-c", arguments["command"], timeout=20)
            text = f"exit code {result['exit_code']}\n{result['stdout']}{result['stderr']}"
            return text if len(text) <= MAX_OUTPUT else text[: MAX_OUTPUT // 2] + "\n…\n" + text[-MAX_OUTPUT // 2 :]
        return f"there is no tool {name}"
    except (Refused, KeyError) as error:
        return f"failed: {error}"


def solve(task, url):
    api = Aether()
    # No network at all: the model's words reach the sandbox as tool calls, nothing leaves it but their output.
    sandbox = api.create(image="python:3.11", network="none", resources={"memory_mb": 256}, ttl="15m")
    messages = [{"role": "user", "content": task}]
    try:
        for _ in range(MAX_TURNS):
            message = ask(url, messages)
            messages.append(message)
            if not message.get("tool_calls"):
                return message["content"]
            for call in message["tool_calls"]:
                arguments = json.loads(call["function"]["arguments"])
                output = use_tool(api, sandbox, call["function"]["name"], arguments)
                print(f"[{call['function']['name']}] {list(arguments.values())[0]}")
                print("    " + output.strip().splitlines()[-1])
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": output})
        return "gave up: too many turns"
    finally:
        api.destroy(sandbox)


if __name__ == "__main__":
    print(solve("What is the 20th Fibonacci number?", os.environ.get("MODEL_URL") or model.serve()))
