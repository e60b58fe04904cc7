# SPDX-License-Identifier: Apache-2.0
"""Labs between cases. In the simulator each case gets a lab of its own. Processes start slowly, so
there a lab is used again by the next case that asks for the same kind, once all was taken back.
"""

import contextlib
import errno
from dataclasses import dataclass

from host_driver.conformance import texts
from host_driver.conformance.complete import completed
from host_driver.conformance.kernel import KernelHost
from host_driver.conformance.target import Options, RawHost
from host_driver.lab import Lab
from proto.status import OffloadError
from proto.xfrm import Group


@dataclass(frozen=True)
class Kind:
    """What tells labs apart. `driver` is a name that load_driver takes, or None."""

    hosts: int
    card: str
    driver: str | None


class Pool:
    """Labs between cases."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._labs: dict[Kind, Lab] = {}
        self._used: set[Kind] = set()  # since they were as new
        self._kernel: KernelHost | None = None
        self._crypto: bool | None = None

    def lab(self, kind: Kind) -> Lab:
        """A lab of this kind in which nothing has happened, or all was taken back."""
        lab = self._labs.get(kind)
        if lab is None:
            lab = self._new(kind)
            lab.start()
            self._labs[kind] = lab
        self._used.add(kind)
        return lab

    def _new(self, kind: Kind) -> Lab:
        options = self._options
        return Lab(
            target=options.target, hosts=kind.hosts, card=kind.card, driver=self._driver(kind),
            profile=options.profile, seed=options.seed,
        )  # fmt: skip

    def _driver(self, kind: Kind) -> str | None:
        """The driver under test is completed; one of the suite's own is as a case wants it."""
        under_test = kind.driver == self._options.driver
        return completed(kind.driver) if under_test else kind.driver

    def takes_crypto(self) -> bool:
        """Whether driver and card of this run take an SA of crypto offload; asked once."""
        if self._crypto is None:
            with self._new(Kind(1, self._options.card, self._options.driver)) as lab:
                (host,) = lab.hosts
                host.ip(texts.state(host.nic.name, offload="crypto"))
                self._crypto = "mode crypto" in host.ip(texts.get()).stdout
        return self._crypto

    def kernel(self) -> KernelHost:
        """The running kernel, entered once."""
        if self._kernel is None:
            self._kernel = KernelHost(self._options.dev)
        return self._kernel

    def after_case(self, *, failed: bool) -> None:
        """Take back what the case did; a lab that cannot be taken back, or that failed, is ended.
        Raises OffloadError(ETIMEDOUT) when that waits in vain."""
        if self._kernel is not None:
            self._kernel.reset(TAKE_BACK)
            for name, value in SYSCTLS.items():
                self._kernel.sysctl(name, value)
        for kind in [kind for kind in self._labs if kind in self._used]:
            kept = False
            try:
                lab = self._labs[kind]
                kept = not failed and self._options.target != "sim" and _taken_back(lab)
            finally:
                if not kept:
                    self.end(kind)
        self._used.clear()

    def close(self) -> None:
        """End everything."""
        for kind in list(self._labs):
            self.end(kind)
        if self._kernel is not None:
            self._kernel.close()

    def end(self, kind: Kind) -> None:
        """End the lab of this kind, if there is one."""
        lab = self._labs.pop(kind, None)
        if lab is not None:
            with contextlib.suppress(OffloadError):
                lab.close()


def _taken_back(lab: Lab) -> bool:
    """Whether a lab is as new: no SA or policy, no reference to the device, which is up and set as
    usual, and no fault. Raises OffloadError(ETIMEDOUT) when a driver does not come back from it."""
    try:
        lab.faults.reset()
        for host in lab.hosts:
            for step in TAKE_BACK:
                if host.ip(step).rc:
                    return False
            host.listen(*Group)
            for name, value in SYSCTLS.items():
                host.sysctl(name, value)
            host.set_link(
                host.nic.name, up=True, mtu=1500, esp_hw_offload=True, esp_tx_csum_hw_offload=False
            )
        lab.settle()
        return all(_empty(host) for host in lab.hosts)
    except OffloadError as error:
        if error.errno == errno.ETIMEDOUT:
            raise
        return False


def _empty(host: RawHost) -> bool:
    devices = host.devices()
    usual = {"lo", host.nic.name} == {dev["name"] for dev in devices}
    return (
        usual and not any(host.nic.census().values()) and not any(dev["refcnt"] for dev in devices)
    )


TAKE_BACK = (
    "xfrm state flush",
    "xfrm policy flush",
    "xfrm policy flush ptype sub",
    "xfrm policy setdefault in accept fwd accept out accept",
    "xfrm policy set hthresh4 32 32 hthresh6 128 128",
)

SYSCTLS = {
    "net.core.xfrm_acq_expires": 30,
    "net.core.xfrm_larval_drop": 1,
    "net.core.xfrm_aevent_etime": 10,
    "net.core.xfrm_aevent_rseqth": 2,
}
