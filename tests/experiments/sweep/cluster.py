"""A Ray cluster of this machine with two nodes of one CPU each; says its address and lives until stdin ends."""

import os
import sys

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # as Ray spells it

from ray.cluster_utils import Cluster  # noqa: E402  # it reads the lines above


def main() -> None:
    cluster = Cluster()
    cluster.add_node(num_cpus=0, include_dashboard=False)  # the head, which computes nothing
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    print(cluster.address, flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
