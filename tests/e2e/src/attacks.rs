//! What a guest does to those beside it, for the tests and for `make bench`.

/// What the main process does, for ever.
pub const ATTACKS: [(&str, &str); 10] = [
    ("a fork bomb", "exec python3 -c 'import os\nwhile True:\n  try: os.fork()\n  except OSError: pass'"),
    ("memory", "while :; do python3 -c 'x = []\nwhile True: x.append(bytearray(1 << 20))'; done"),
    ("a full disk", "while :; do head -c 2000000000 /dev/zero > /var/tmp/big; sync; done"),
    (
        "small synced writes",
        "exec python3 -c 'import os\nf = os.open(\"/var/tmp/s\", os.O_CREAT | os.O_WRONLY)\nwhile True: os.pwrite(f, b\"x\" * 512, 0); os.fsync(f)'",
    ),
    ("the console", "exec yes serial > /dev/console"),
    ("the log", "exec yes log"),
    ("the kernel's log", "while :; do echo '<0>kernel' > /dev/kmsg; done"),
    (
        "packets",
        "exec python3 -c 'import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nwhile True:\n  try: s.sendto(b\"x\" * 64, (\"203.0.113.77\", 9))\n  except OSError: pass'",
    ),
    (
        "flows",
        "exec python3 -c 'import socket\np = 0\nwhile True:\n  p = p % 65535 + 1\n  s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n  try: s.sendto(b\"x\", (\"203.0.113.77\", p)); s.sendto(b\"x\", (\"10.200.0.1\", 53))\n  except OSError: pass\n  s.close()'",
    ),
    ("processors", "for i in 1 2 3 4; do (while :; do :; done) & done; wait"),
];
