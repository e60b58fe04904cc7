# SPDX-License-Identifier: Apache-2.0
"""Drivers that break the rules of the callbacks: who may sleep, what may be returned, what is owed.

The docstring of each says what is wrong with it.
"""

import errno

from host_driver.driver.reference import ReferenceDriver
from host_driver.sleep import Completion, wait
from host_driver.xfrm.state import OFFLOAD_FLAG_ACQ, OFFLOAD_PACKET
from proto.commands import Fence


class Sleeper(ReferenceDriver):
    """A driver that waits for its card wherever it likes."""

    def __init__(self, context):
        super().__init__(context)
        self.context = context

    def nap(self, value=None):
        yield from wait(Completion(self.context.now_ns() + 1_000_000))
        return value


class SleepsInDelete(Sleeper):
    """state_delete waits for the card although the core holds the SA's lock."""

    def xdo_dev_state_delete(self, dev, x):
        super().xdo_dev_state_delete(dev, x)
        return self.nap()


class SleepsInUpdate(Sleeper):
    """update_curlft asks the card and waits for the answer."""

    def xdo_dev_state_update_curlft(self, x):
        yield from wait(self.context.mailbox.post(Fence()))
        super().xdo_dev_state_update_curlft(x)


class SleepsInPolicyDelete(Sleeper):
    """policy_delete waits."""

    def xdo_dev_policy_delete(self, xp):
        super().xdo_dev_policy_delete(xp)
        return self.nap()


class SleepsInPolicyFree(Sleeper):
    """policy_free waits."""

    def xdo_dev_policy_free(self, xp):
        super().xdo_dev_policy_free(xp)
        return self.nap()


class SleepsInOffloadOk(Sleeper):
    """offload_ok waits, for every packet."""

    def xdo_dev_offload_ok(self, skb, x):
        return self.nap(True)


class SleepsInLarvalAdd(Sleeper):
    """state_add waits also for a larval SA, which comes from the packet path."""

    def xdo_dev_state_add(self, dev, x, extack):
        if x.xso.flags & OFFLOAD_FLAG_ACQ:
            return self.nap(0)
        return super().xdo_dev_state_add(dev, x, extack)


class RefusesLarval(ReferenceDriver):
    """A larval SA has no key, so this driver calls it invalid."""

    def xdo_dev_state_add(self, dev, x, extack):
        if x.aead is None:
            extack.set("no key")
            return -errno.EINVAL
        return super().xdo_dev_state_add(dev, x, extack)


class PacketIsNotSupported(ReferenceDriver):
    """Refuses packet mode with the errno that asks for software."""

    def xdo_dev_state_add(self, dev, x, extack):
        if x.xso.type == OFFLOAD_PACKET and not x.xso.flags & OFFLOAD_FLAG_ACQ and x.tfcpad == 0:
            return -errno.EOPNOTSUPP
        return super().xdo_dev_state_add(dev, x, extack)


class PositiveErrno(ReferenceDriver):
    """Returns errno as a positive number."""

    def xdo_dev_state_add(self, dev, x, extack):
        return errno.EINVAL


class RaisesInDelete(ReferenceDriver):
    """state_delete ends with an exception, after its work."""

    def xdo_dev_state_delete(self, dev, x):
        super().xdo_dev_state_delete(dev, x)
        raise KeyError(x.id.spi)


class RaisesInFree(ReferenceDriver):
    """state_free looks for the algorithm, which is gone by then."""

    def xdo_dev_state_free(self, dev, x):
        assert x.aead.key
        return super().xdo_dev_state_free(dev, x)


class CannotUpdateAfterDelete(ReferenceDriver):
    """update_curlft fails for an SA whose delete was called, as the hard EXPIRE does."""

    def xdo_dev_state_update_curlft(self, x):
        assert x.km.state != 5, "deleted"
        super().xdo_dev_state_update_curlft(x)


class ExpiresInsideDelete(ReferenceDriver):
    """Looks at the limits once more from within state_delete, under the lock it needs."""

    def __init__(self, context):
        super().__init__(context)
        self.context = context

    def xdo_dev_state_delete(self, dev, x):
        self.context.xfrm_state_check_expire(x)
        super().xdo_dev_state_delete(dev, x)


class FreeForgets(ReferenceDriver):
    """Neither delete nor free touches the card: key and SA stay there."""

    def xdo_dev_state_delete(self, dev, x):
        pass

    def xdo_dev_state_free(self, dev, x):
        return None


class PolicyDeleteForgets(ReferenceDriver):
    """The policy stays in the card's table."""

    def xdo_dev_policy_delete(self, xp):
        pass

    def xdo_dev_policy_free(self, xp):
        pass


class KeyedBySpi(Sleeper):
    """Finds its SAs by SPI, so the late free of an old one takes away the new one."""

    def __init__(self, context):
        super().__init__(context)
        self.by_spi = {}

    def xdo_dev_state_add(self, dev, x, extack):
        self.by_spi[x.id.spi] = x
        return super().xdo_dev_state_add(dev, x, extack)

    def xdo_dev_state_free(self, dev, x):
        yield from self.nap()
        latest = self.by_spi.pop(x.id.spi, x)
        super().xdo_dev_state_delete(dev, latest)
        yield from super().xdo_dev_state_free(dev, latest) or ()


class WantsSaBeforePolicy(ReferenceDriver):
    """Refuses a policy while no SA is there."""

    def xdo_dev_policy_add(self, xp, extack):
        if xp.xfrm_vec and not self._sas:
            extack.set("no SA yet")
            return -errno.ENOENT
        return super().xdo_dev_policy_add(xp, extack)


class WantsPolicyBeforeSa(ReferenceDriver):
    """Refuses an SA while no policy is there."""

    def xdo_dev_state_add(self, dev, x, extack):
        if not self._policies and not x.xso.flags & OFFLOAD_FLAG_ACQ:
            extack.set("no policy yet")
            return -errno.ENOENT
        return super().xdo_dev_state_add(dev, x, extack)


class NoPolicyAdd(ReferenceDriver):
    """Says yes to every policy and tells the card nothing."""

    def xdo_dev_policy_add(self, xp, extack):
        return 0
