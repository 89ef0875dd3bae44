#!/usr/bin/env python3
"""A code interpreter: cells that keep their variables, in a sandbox without network."""
import ast
import pathlib
import signal
import subprocess
import sys
import threading

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from aether import Aether


class Interpreter:
    """One sandbox, one Python in it. Its end, whatever ends it, is the sandbox's."""

    def __init__(self):
        self.api = Aether()
        self.agent = self.api.create(
            image="python:3.11", network="none", resources={"memory_mb": 256}, ttl="10m", labels={"example": "interpreter"}
        )
        self.api.put(self.agent, "/root/kernel.py", (HERE / "kernel.py").read_bytes())
        # Streams need a WebSocket; the CLI is one, and passes signals on.
        self.kernel = subprocess.Popen(
            ["aether", "exec", "-i", self.agent, "--", "python3", "-u", "/root/kernel.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def _answer(self):
        return ast.literal_eval(self.kernel.stdout.readline())

    def cell(self, code, timeout=20):
        """Runs one cell. Past the time-out it is interrupted, and the variables are still there."""
        interrupt = threading.Timer(timeout, self.kernel.send_signal, [signal.SIGINT])
        interrupt.start()
        self.kernel.stdin.write(repr(code) + "\n")
        self.kernel.stdin.flush()
        answer = self._answer()
        interrupt.cancel()
        return answer["text"] + (answer["error"] or "")

    def close(self):
        self.api.destroy(self.agent)
        self.kernel.kill()
        self.kernel.wait()


# What a model might send, cell by cell.
CELLS = [
    "import csv\nrows = list(csv.DictReader(open('/root/sales.csv')))\nlen(rows)",
    "total = sum(int(r['amount']) for r in rows)\ntotal",
    "print('mean', total / len(rows))\nrows[0]['city'] / 2",
    "while True: pass",
    "with open('/root/report.txt', 'w') as report:\n    report.write(f'{len(rows)} sales, {total} in all')",
]


def main():
    interpreter = Interpreter()
    try:
        interpreter.api.put(interpreter.agent, "/root/sales.csv", b"city,amount\nBern,40\nOslo,25\nRome,35\n")
        for code in CELLS:
            print(">>> " + code.replace("\n", "\n... "))
            print(interpreter.cell(code, timeout=3).rstrip())
        print(interpreter.api.get(interpreter.agent, "/root/report.txt").decode())
    finally:
        interpreter.close()


if __name__ == "__main__":
    main()
