"""The web console: what a cluster does, and what an operator does about it, in a browser.

Each node serves it on its HTTP port and asks the members for the rest, so the console of one node shows all of them.
It is files without a build step, and handlers that forward the caller's token; nothing here decides who may do what.
"""

from __future__ import annotations

from collections.abc import Callable

from cachenode.adapters.tls import NodeTls
from cachenode.console.feed import Feeds
from cachenode.console.fleet import Fleet
from cachenode.console.guard import Guard
from cachenode.console.overview import OverviewCalls
from cachenode.console.routes import Call, Console
from cachenode.core.access import Grants
from cachenode_api.view import View

__all__ = ["Console", "make_console"]


def make_console(
    *,
    me: str,
    cluster: str,
    view: Callable[[], View | None],
    host: str,
    loopback: bool,
    grants: Callable[[], Grants] | None = None,
    tls: NodeTls | None = None,
) -> Console:
    """Return the console of a node.

    Args:
        me: Id of the node.
        cluster: Name of its cluster.
        view: Returns the view in force, None before the first.
        host: What the HTTP port listens on.
        loopback: Whether only this machine can reach it.
        grants: Returns the grants in force; None if nobody is asked for a token.
        tls: How peers are met; None for plain connections.
    """
    fleet = Fleet(me, view, tls)
    guard = Guard(grants, host, loopback=loopback)
    overview = OverviewCalls(fleet, guard, cluster)
    looks: dict[str, Call] = {"session": overview.session, "ring": overview.ring}
    changes: dict[str, Call] = {}
    return Console(guard, Feeds(fleet), looks, changes, fleet.close)
