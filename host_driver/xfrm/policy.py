# SPDX-License-Identifier: Apache-2.0
"""`struct xfrm_policy`: one entry of the SPD, as core, driver and dump see it (section 2.3)."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from host_driver.xfrm.state import DevOffload
from proto.xfrm_structs import LifetimeCfg, LifetimeCur, UserTmpl, XfrmMark, XfrmSelector

if TYPE_CHECKING:
    from host_driver.xfrm.hold import PolicyQueue


@dataclass(slots=True, eq=False, weakref_slot=True)
class XfrmPolicy:
    """One policy. `dir` is POLICY_IN, OUT or FWD; the lowest `priority` number wins.

    `index` is 0 until the policy is in the SPD, which is after the driver's policy_add (OPS-30).
    Policies have no byte and packet counters (DUMP-06). `xdo.type` is never CRYPTO (OBJ-02).
    """

    selector: XfrmSelector = field(default_factory=XfrmSelector)
    priority: int = 0
    index: int = 0
    dir: int = 0
    mark: XfrmMark = field(default_factory=XfrmMark)
    if_id: int = 0
    type: int = 0
    action: int = 0
    flags: int = 0
    lft: LifetimeCfg = field(default_factory=LifetimeCfg)
    curlft: LifetimeCur = field(default_factory=LifetimeCur)
    xfrm_vec: list[UserTmpl] = field(default_factory=list)
    family: int = 0
    xdo: DevOffload = field(default_factory=DevOffload)
    dead: bool = False
    refcnt: int = 1
    sec_ctx: bytes | None = None
    # Order of insertion among the inexact policies (SPD-22) and the shot of the timer that is due.
    pos: int = 0
    timer_ns: int | None = None
    polq: "PolicyQueue | None" = None
