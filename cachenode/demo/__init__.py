"""The demonstration: public data, several client processes, a node killed half-way, and a report.

The cluster comes as an argument: the command line knows how to start one, the demonstration what to do with it.
"""

from __future__ import annotations

from cachenode.demo.run import Cluster, ClusterNode, StartCluster, run_demo

__all__ = ["Cluster", "ClusterNode", "StartCluster", "run_demo"]
