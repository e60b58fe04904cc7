# SPDX-License-Identifier: Apache-2.0
"""A user's own ACQUIRE: every template is announced as if a packet had needed it (section 1.2).

It makes no larval SA and changes nothing: it lets one key manager ask another.
"""

import errno
from typing import TYPE_CHECKING

from host_driver.sleep import Sleep
from host_driver.xfrm.attributes import mark_of, pcpu_of, verify_sec_ctx
from host_driver.xfrm.device import xfrm_dev_policy_add
from host_driver.xfrm.encode import build_acquire
from host_driver.xfrm.policy_lifecycle import xfrm_policy_discard
from host_driver.xfrm.user_policy import verify_newpolicy_info, xfrm_policy_construct
from proto.xfrm import Attr, Group
from proto.xfrm_structs import UserAcquire, UserOffload

if TYPE_CHECKING:
    from host_driver.xfrm.net import XfrmNet
    from host_driver.xfrm.user import Request


def xfrm_add_acquire(net: "XfrmNet", request: "Request") -> Sleep[None]:
    """ACQUIRE from a user: verify its policy, then multicast once for each template."""
    wanted = UserAcquire.unpack(request.nlh.payload)
    x = net.new_state()
    x.pcpu_num = pcpu_of(request.attributes, errno.EINVAL)
    verify_newpolicy_info(wanted.policy)
    if Attr.SEC_CTX in request.attributes:
        verify_sec_ctx(request.attributes[Attr.SEC_CTX])
    xp = xfrm_policy_construct(net, request, wanted.policy)
    if Attr.OFFLOAD_DEV in request.attributes:
        offload = UserOffload.unpack(request.attributes[Attr.OFFLOAD_DEV])
        yield from xfrm_dev_policy_add(net, xp, offload, request.extack)
    xp.mark, x.mark = mark_of(request.attributes), mark_of(request.attributes)
    x.props.saddr, x.sel = wanted.saddr, wanted.sel
    for tmpl in xp.xfrm_vec:
        x.id, x.props.mode = tmpl.id, tmpl.mode
        x.props.reqid, x.props.family = tmpl.reqid, tmpl.family
        tmpl.aalgos, tmpl.ealgos, tmpl.calgos = wanted.aalgos, wanted.ealgos, wanted.calgos
        x.km.seq = net.next_acqseq()
        net.multicast(Group.ACQUIRE, build_acquire(x, tmpl, xp))
    xfrm_policy_discard(net, xp)
