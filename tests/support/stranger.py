# SPDX-License-Identifier: Apache-2.0
"""Programs that try what they may not, as another user or as ours; each a process of its own."""

import subprocess
import sys

NOBODY = 65534

_BECOME = """
import os, sys, zmq
uid = int(sys.argv[1])
if uid != os.getuid():
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
"""

# Dial an address and send; print what comes back within the time, one line a message.
_TALK = """
def key(path):
    return open(path, "rb").read().strip() if path else b""
address, message, secret, server = sys.argv[2:6]
socket = zmq.Context().socket(zmq.DEALER)
socket.linger = 0
if server:
    public, own = zmq.curve_keypair()
    own = key(secret) or own
    socket.curve_secretkey, socket.curve_publickey = own, zmq.curve_public(own)
    socket.curve_serverkey = key(server)
socket.connect(address)
try:
    socket.send(bytes.fromhex(message), zmq.NOBLOCK)
except zmq.Again:
    pass
while socket.poll(1500):
    print(socket.recv().hex())
"""

# Open files; print the errno or what was read.
_OPEN = """
for path in sys.argv[2:]:
    try:
        with open(path, "r+b") as file:
            print(file.read(16).hex())
    except OSError as error:
        print(os.strerror(error.errno))
"""


def talk(address: str, message: bytes, uid: int, secret: str = "", server: str = "") -> list[bytes]:
    """What a peer gets that dials `address` as `uid` and sends `message`.

    `server`: file of the public key that it thinks the server has; `secret`: of its own key, "" for
    a fresh one. Without `server` it uses no key at all.
    """
    lines = _run(_TALK, str(uid), address, message.hex(), secret, server)
    return [bytes.fromhex(line) for line in lines]


def read(paths: list[str], uid: int) -> list[str]:
    """What comes of opening each file for reading and writing as `uid`."""
    return _run(_OPEN, str(uid), *paths)


def _run(program: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", _BECOME + program, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
