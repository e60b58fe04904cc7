# SPDX-License-Identifier: Apache-2.0
"""How fast descriptors cross the bus: messages and packets per second over ipc, as JSON.

    python perf/ring.py [--seconds 1.0]

Two processes, one channel, RING_SIZE credits that come back one message per burst: the bus alone,
without driver, card or packet bytes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from proto.frame import Kind, pack, unpack
from proto.layouts import DESCRIPTOR
from proto.limits import RING_SIZE
from proto.link.ring import Consumer, Producer
from proto.link.zmq import Endpoint, Hub, Poller

BURSTS = (1, 32, 256)
PATIENCE_MS = 10_000


def serve(address: str) -> None:
    """The consuming side: account for every burst and return its credits, until TERMINATE."""
    ring = Consumer(RING_SIZE)
    with Hub() as hub:
        endpoint = hub.connect(address)
        endpoint.send(pack(Kind.HELLO))
        poller = Poller([endpoint])
        while poller.wait(PATIENCE_MS):
            for raw in endpoint.receive():
                message = unpack(raw)
                if message.kind is Kind.TERMINATE:
                    return
                assert ring.arrived(message.index, message.count) == 0
                endpoint.send(pack(Kind.TX_DONE, index=message.index, count=message.count))


def rate(endpoint: Endpoint, ring: Producer, burst: int, seconds: float) -> dict[str, float]:
    """Send bursts for a while, never without credits, then wait until all came back."""
    poller = Poller([endpoint])
    body = np.zeros(burst, DESCRIPTOR).tobytes()
    messages = 0
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds or ring.outstanding:
        while elapsed < seconds and ring.credits >= burst:
            endpoint.send(pack(Kind.TX, body, ring.take(burst), burst))
            messages += 1
        if not poller.wait(PATIENCE_MS):
            raise TimeoutError("the consumer is silent")
        for raw in endpoint.receive():
            ring.refill(unpack(raw).count)
    return {
        "burst": burst,
        "messages_per_s": round(messages / elapsed),
        "packets_per_s": round(messages * burst / elapsed),
    }


def main() -> None:
    """Measure every burst size and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="per burst size")
    parser.add_argument("--serve", metavar="ADDRESS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    with tempfile.TemporaryDirectory(prefix="xn-") as directory, Hub() as hub:
        endpoint = hub.bind(f"ipc://{directory}/ring")
        command = [sys.executable, __file__, "--serve", endpoint.address]
        with subprocess.Popen(command) as consumer:
            if not Poller([endpoint]).wait(PATIENCE_MS):
                consumer.kill()
                raise TimeoutError("the consumer did not start")
            endpoint.receive()
            ring = Producer(RING_SIZE)
            results = [rate(endpoint, ring, burst, options.seconds) for burst in BURSTS]
            endpoint.send(pack(Kind.TERMINATE))
    report = {"benchmark": "ring", "machine": measure.machine(), "results": results}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
