# SPDX-License-Identifier: Apache-2.0
"""Seeds on a Dask cluster: the same results as here."""

import pytest
from click.testing import CliRunner

from host_driver.cli.app import cli
from host_driver.cli.simulate import seconds_left
from host_driver.simulate.campaign import Task, run_many, run_on_cluster

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("default")  # of the cluster's own shutdown


def test_a_cluster_gives_the_results_of_one_process(tmp_path) -> None:
    tasks = [Task(seed=seed, steps=15, out=str(tmp_path)) for seed in range(3)]
    here = {one.seed: one.hash for one in run_many(tasks, 1, 1.0, seconds_left)}
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        there = {one.seed: one.hash for one in run_on_cluster(client, tasks, 1.0, seconds_left)}
    assert there == here
    assert len(here) == 3


def test_no_scheduler_is_said_at_once() -> None:
    done = CliRunner().invoke(cli, ["simulate", "--seeds", "0..1", "--dask", "tcp://127.0.0.1:1"])
    assert done.exit_code == 3
    assert "no Dask scheduler at tcp://127.0.0.1:1" in done.stderr
