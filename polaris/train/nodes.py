"""`train.nodes` and a pod's environment in; which node of a training this is, and torchrun's arguments out.

Node 0 must hold rank 0, which writes the metrics, the model and a checkpoint's common files, because node
0's supervisor is the one that makes the artifact. torchrun's c10d rendezvous ignores `--node-rank`: it sorts
the nodes by the address that each gives of itself (torch 2.13, `dynamic_rendezvous.py`), and only rank 0's is
ever resolved. So node 0 gives the rendezvous' host, and node i the same with `~` and its number behind it,
which sorts after it whatever the hosts are called. Node 0 also hosts the rendezvous, by `is_host`: left to
guess, torchrun compares host names, of which a pod has several.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from polaris.errors import ConfigError
from polaris.recipe import TrainConfig
from polaris.stage import NODE_ENV

NODES_ENV = "POLARIS_NODES"
"""How many nodes train together."""
RENDEZVOUS_ENV = "POLARIS_RENDEZVOUS"
"""`host:port` of node 0."""
MEET_S = 1800
"""Longest wait for the other nodes: one may still be fetching its image, model or checkpoint."""


@dataclass(frozen=True)
class Team:
    """The nodes of a training as one of them sees it; `rendezvous` is node 0's `host:port`."""

    nodes: int = 1
    node: int = 0
    rendezvous: str = ""

    @property
    def alone(self) -> bool:
        """Whether this node trains by itself."""
        return self.nodes == 1

    @property
    def leads(self) -> bool:
        """Whether this node holds rank 0 and makes the artifact."""
        return self.node == 0

    @property
    def others(self) -> str:
        """Name the other nodes in a message."""
        return f"node {1 - self.node}" if self.nodes == 2 else "another node"

    def torchrun(self, identifier: str) -> list[str]:
        """Return the arguments by which torchrun finds the other nodes; `identifier` names the training."""
        if self.alone:
            return ["--standalone"]
        host = self.rendezvous.rpartition(":")[0]
        address = host if self.leads else f"{host}~{self.node:06d}"
        waits = f"read_timeout={MEET_S},join_timeout={MEET_S}"
        return [
            f"--nnodes={self.nodes}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={self.rendezvous}",
            f"--rdzv-id={identifier}",
            f"--rdzv-conf=is_host={int(self.leads)},{waits}",
            f"--local-addr={address}",
        ]


def told_team(environment: Mapping[str, str] = os.environ) -> Team:
    """Return what the environment says, which the supervisor has checked."""
    nodes, node = (int(environment.get(name) or default) for name, default in ((NODES_ENV, 1), (NODE_ENV, 0)))
    return Team(nodes, node, environment.get(RENDEZVOUS_ENV, ""))


def team_of(train: TrainConfig, environment: Mapping[str, str] = os.environ) -> Team:
    """Return this node's team.

    Raises:
        ConfigError: the environment says something else than `train.nodes`, or nothing where there are more.

    """
    # Empty, not absent, is what a pod gets from an annotation that it does not have.
    found = environment.get(NODES_ENV) or "1"
    if found != str(train.nodes):
        raise ConfigError(
            f"train.nodes is {train.nodes}, but {NODES_ENV} is"
            f" {environment.get(NODES_ENV) or 'not set'}: set train.nodes to the number of nodes"
            f" that there are; each of several needs {NODES_ENV}, {NODE_ENV} (from 0) and {RENDEZVOUS_ENV}"
            " (HOST:PORT of node 0) in its environment"
        )
    node = environment.get(NODE_ENV) or ("0" if train.nodes == 1 else "")
    if node not in map(str, range(train.nodes)):
        raise ConfigError(f"{NODE_ENV} is '{node}': expected a number from 0 to {train.nodes - 1}")
    rendezvous = environment.get(RENDEZVOUS_ENV, "")
    host, _, port = rendezvous.rpartition(":")
    if train.nodes > 1 and not (host and port.isdigit()):
        raise ConfigError(f"{RENDEZVOUS_ENV} is '{rendezvous}': expected HOST:PORT of node 0")
    return Team(train.nodes, int(node), rendezvous)
