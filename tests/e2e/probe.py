"""Prints each ADDRESS:PORT of its arguments that answers, with how."""
import socket
import sys
from concurrent.futures import ThreadPoolExecutor


def probe(target):
    host, port = target.rsplit(":", 1)
    found = []
    for protocol, kind in (("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)):
        with socket.socket(socket.AF_INET, kind) as s:
            s.settimeout(4)
            try:
                s.connect((host, int(port)))
                if protocol == "udp":
                    s.send(b"x")
                    s.recv(16)
                found.append(f"{protocol} {target}")
            except OSError:
                pass
    return found


with ThreadPoolExecutor(32) as pool:
    for found in pool.map(probe, sys.argv[1:]):
        for line in found:
            print(line)
