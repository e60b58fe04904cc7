# SPDX-License-Identifier: Apache-2.0
"""The shell of the wire among processes: a thread that polls the cards and steps the wire."""

import os
import threading
from collections.abc import Sequence

from host_driver.lab.wire import Wire
from proto.clock import Clock
from proto.link.loop import timeout_ms
from proto.link.zmq import Endpoint, Poller


class WireThread(threading.Thread):
    """Runs `wire` until `stop`. Whoever else touches it holds `lock`, and kicks afterwards."""

    def __init__(self, wire: Wire, endpoints: Sequence[Endpoint], clock: Clock) -> None:
        super().__init__(name="wire", daemon=True)
        self.wire = wire
        self.lock = threading.Lock()
        self._endpoints = endpoints
        self._clock = clock
        self._stopping = False
        self._kicked = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.greeted = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # a card has said HELLO
        self.start()

    def run(self) -> None:
        """Poll, step, send."""
        ports = {id(endpoint): port for port, endpoint in enumerate(self._endpoints)}
        poller = Poller(self._endpoints, [self._kicked])
        while not self._stopping:
            with self.lock:
                wait_ms = timeout_ms(self.wire.deadline_ns(), self._clock.now_ns())
            ready = poller.wait(wait_ms)
            if self._kicked in ready:
                os.eventfd_read(self._kicked)
            inputs = [
                (ports[id(endpoint)], raw)
                for endpoint in ready
                if isinstance(endpoint, Endpoint)
                for raw in endpoint.receive()
            ]
            with self.lock:
                before = self.wire.greetings()
                outputs = self.wire.step(self._clock.now_ns(), inputs)
                if self.wire.greetings() != before:
                    os.eventfd_write(self.greeted, 1)
            for port, raw in outputs:
                self._endpoints[port].send(raw)

    def forget_greeting(self) -> None:
        """`greeted` tells of the next one."""
        os.eventfd_read(self.greeted)

    def kick(self) -> None:
        """Make the thread look at the wire again."""
        os.eventfd_write(self._kicked, 1)

    def stop(self) -> Sequence[Endpoint]:
        """End the thread and give its endpoints back to the caller's thread."""
        self._stopping = True
        self.kick()
        self.join()
        os.close(self._kicked)
        os.close(self.greeted)
        return self._endpoints
