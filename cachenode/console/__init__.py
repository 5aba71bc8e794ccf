"""The web console: what a cluster does, and what an operator does about it, in a browser.

Each node serves it on its HTTP port and asks the members for the rest, so the console of one node shows all of them.
It is files without a build step, and handlers that forward the caller's token; nothing here decides who may do what.
"""

from __future__ import annotations

from collections.abc import Callable

from cachenode.adapters.tls import NodeTls
from cachenode.console.duties import DutyCalls
from cachenode.console.events import EventCalls
from cachenode.console.feed import Feeds
from cachenode.console.fleet import Fleet
from cachenode.console.guard import Guard
from cachenode.console.keys import KeyCalls
from cachenode.console.overview import OverviewCalls
from cachenode.console.routes import Call, Console
from cachenode.console.settings import SettingCalls
from cachenode.core.access import Grants
from cachenode.core.events import EventRules
from cachenode_api.view import View

__all__ = ["Console", "make_console"]


def make_console(
    *,
    me: str,
    cluster: str,
    view: Callable[[], View | None],
    rules: Callable[[], EventRules],
    host: str,
    loopback: bool,
    open_changes: bool,
    grants: Callable[[], Grants] | None = None,
    tls: NodeTls | None = None,
) -> Console:
    """Return the console of a node.

    Args:
        me: Id of the node.
        cluster: Name of its cluster.
        view: Returns the view in force, None before the first.
        rules: Returns this node's rules of events.
        host: What the HTTP port listens on.
        loopback: Whether only this machine can reach it.
        open_changes: Whether anybody may change things who reaches it, if nobody is asked for a token.
        grants: Returns the grants in force; None if nobody is asked for a token.
        tls: How peers are met; None for plain connections.
    """
    fleet = Fleet(me, view, tls)
    guard = Guard(grants, host, loopback=loopback, open_changes=open_changes)
    overview = OverviewCalls(fleet, guard, cluster)
    keys, events = KeyCalls(fleet), EventCalls(fleet, guard, rules)
    duties, settings = DutyCalls(fleet), SettingCalls(fleet)
    looks = _by_name(
        overview.session,
        overview.ring,
        keys.hot_keys,
        keys.big_keys,
        keys.explain,
        events.rules,
        events.test_event,
        duties.warming,
        duties.queues,
        duties.dead_letters,
        settings.namespaces,
        settings.advise,
    )
    changes = _by_name(
        keys.invalidate,
        events.publish,
        duties.warm_start,
        duties.warm_cancel,
        duties.replay,
        duties.drop,
        settings.set_namespace,
    )
    return Console(guard, Feeds(fleet), looks, changes, fleet.close)


def _by_name(*calls: Call) -> dict[str, Call]:
    return {call.__name__: call for call in calls}
