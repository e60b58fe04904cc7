# SPDX-License-Identifier: Apache-2.0
"""Strategies for faults: of all sites and kinds that there are, or of some."""

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from host_driver.faults.catalogue import catalogue
from proto.faults import SITES, FaultSpec, Kind, concerned

DELAYS_MS = (1, 50, 400, 2500)
VALUE_MAX = 64  # drawn numbers are small, so that they mean something
SEEDS = st.integers(0, (1 << 32) - 1)


def _values(kind: Kind) -> st.SearchStrategy[int | str | None]:
    """A value that the kind takes; None where it takes none, or may do without."""
    if kind.examples:
        some: st.SearchStrategy[int | str | None] = st.sampled_from(kind.examples)
    elif kind.value:
        some = st.integers(kind.low, min(kind.high, kind.low + VALUE_MAX))
    else:
        return st.none()
    return some if "value" in kind.needs else st.none() | some


def _often() -> st.SearchStrategy[dict[str, Any]]:
    """When it fires: once, a few times, every so often, by chance, at one match, always."""
    return st.one_of(
        st.fixed_dictionaries({"times": st.integers(1, 4), "skip": st.integers(0, 4)}),
        st.fixed_dictionaries({"interval": st.integers(2, 5)}),
        st.fixed_dictionaries({"probability": st.sampled_from((0.1, 0.5))}),
        st.fixed_dictionaries({"fail_nth": st.integers(1, 8)}),
        st.just({}),
    )


def fault_specs(
    sites: Sequence[str] | None = None, kinds: Sequence[str] | None = None
) -> st.SearchStrategy[FaultSpec]:
    """A fault that `lab.faults.add` takes, at one of these sites (or below), of these kinds.

    Raises ValueError when the sites have no such kind.
    """
    offered = [
        (site, kind)
        for site in SITES
        for kind in SITES[site].kinds
        if (kinds is None or kind in kinds)
        and (sites is None or any(site in concerned(above, kind) for above in sites))
    ]
    if not offered:
        raise ValueError(f"no site of {sites} has a kind of {kinds}, see `xfrmnic fault kinds`")
    return st.sampled_from(offered).flatmap(lambda place: _fault_at(*place))


@st.composite
def _fault_at(draw: st.DrawFn, site: str, kind: str) -> FaultSpec:
    what = SITES[site].kinds[kind]
    fields = draw(_often())
    if "delay_ms" in what.needs:
        fields["delay_ms"] = draw(st.sampled_from(DELAYS_MS))
    value = draw(_values(what))
    return FaultSpec(site=site, kind=kind, seed=draw(SEEDS), value=value, **fields)


def fault_names(area: str | None = None) -> st.SearchStrategy[str]:
    """Names of the catalogue for `lab.faults.add(name)`, all or those of one file ("wire")."""
    return st.sampled_from(
        [
            row.fault
            for row in catalogue().values()
            if row.inject and row.fault and area in (None, row.area)
        ]
    )
