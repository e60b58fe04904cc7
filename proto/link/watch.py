# SPDX-License-Identifier: Apache-2.0
"""Whether somebody is at the other end of a channel: ZeroMQ's monitor, read as messages.

A connection that is closed becomes CLOSED, one that is made OPENED, as if the channel itself had
said it; so a party needs no other way to hear of it, and a simulator says the same.
"""

from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from proto.frame import Kind, pack

_EVENTS = {
    zmq.EVENT_DISCONNECTED: Kind.CLOSED,
    zmq.EVENT_HANDSHAKE_SUCCEEDED: Kind.OPENED,
}


class Watch:
    """The monitor of one socket. `socket` can be polled."""

    def __init__(self, watched: "zmq.Socket[bytes]") -> None:
        self._watched = watched
        self.socket: Any = watched.get_monitor_socket(sum(_EVENTS))

    def receive(self) -> list[bytes]:
        """What happened since the last call."""
        messages = []
        while self.socket.poll(0):
            event = recv_monitor_message(self.socket)["event"]
            messages.append(pack(_EVENTS[event]))
        return messages

    def close(self) -> None:
        """Stop watching."""
        self._watched.disable_monitor()
        self.socket.close(linger=0)
