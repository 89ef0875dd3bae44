"""The function: bytes in, bytes out, a fresh process for each call."""
import os
import sys


def handle(body):
    if body == b"sleep":
        import time

        time.sleep(3600)
    words = body.decode().split()
    longest = max(words, key=len)  # no words: ValueError, as real functions fail
    return f"{os.environ['GREETING']}: {len(words)} words, the longest is {longest}\n".encode()


sys.stdout.buffer.write(handle(sys.stdin.buffer.read()))
