"""Answers on one address and port, over TCP and UDP, until it is killed.

A datagram is answered from the address that it was sent to, so that a host
with many addresses answers on each.
"""
import socket
import struct
import sys
import threading

IP_PKTINFO = 8
host, port = sys.argv[1], int(sys.argv[2])
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
udp.bind((host, port))
tcp = socket.socket()
tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
tcp.bind((host, port))
tcp.listen(64)


def echo():
    while True:
        data, ancillary, _, peer = udp.recvmsg(64, 64)
        _, _, local = struct.unpack("I4s4s", ancillary[0][2][:12])
        source = struct.pack("I4s4s", 0, local, b"\0" * 4)
        udp.sendmsg([data], [(socket.IPPROTO_IP, IP_PKTINFO, source)], 0, peer)


threading.Thread(target=echo, daemon=True).start()
while True:
    connection, _ = tcp.accept()
    connection.close()
