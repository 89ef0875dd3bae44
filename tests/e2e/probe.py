"""Prints each ADDRESS:PORT of its arguments that answers, with how.

IPv6 addresses without brackets: the last part is the port.
"""
import socket
import sys
import threading


def probe(target):
    host, port = target.rsplit(":", 1)
    found = []
    for protocol, kind in (("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, kind) as s:
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


def report(target):
    for line in probe(target):
        print(line, flush=True)


threads = [threading.Thread(target=report, args=(target,)) for target in sys.argv[1:]]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
