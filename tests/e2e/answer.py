"""Answers on one address and port, over TCP and UDP, until it is killed."""
import socket
import sys
import threading

host, port = sys.argv[1], int(sys.argv[2])
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind((host, port))
tcp = socket.socket()
tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
tcp.bind((host, port))
tcp.listen(64)


def echo():
    while True:
        data, peer = udp.recvfrom(64)
        udp.sendto(data, peer)


threading.Thread(target=echo, daemon=True).start()
while True:
    connection, _ = tcp.accept()
    connection.close()
