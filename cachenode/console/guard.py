"""Who may ask the console for what, and the headers that all its answers bear.

A browser runs what any page tells it, so a request has to show that it comes from the console's own page:

- each call is a POST of JSON with a header of its own, which another site's page cannot send without asking first, and
  nobody answers that question (``test_calls_of_other_sites_are_refused``);
- `Origin`, where the browser sends it, must be the host that was asked;
- without tokens on loopback the `Host` must be a name of this machine: else a site could have its own name point here
  and read along, "DNS rebinding" (``test_other_names_of_this_machine_are_refused``).

Where the node knows tokens, nothing is told without one. It comes in a header and goes on to the nodes, whose gates
decide; it is never part of a URL, which is logged and remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiohttp import web

from cachenode.console.refusals import Refused
from cachenode.core.access import Grants, Role
from cachenode_api.metadata import BEARER

__all__ = ["HEADERS", "MARK", "Caller", "Guard"]

MARK = "X-Cachenode-Console"
"""The header of the console's own calls."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_SIGN_IN = "Sign in with a token: `cachenode token NAME --role read` makes one to look, --role admin one to change."


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        token: What goes on to the nodes; empty where they ask for none.
        name: Whose token it is; empty where there are none.
        role: The most that it allows; None where nobody is asked for a token.
    """

    token: str
    name: str
    role: Role | None


class Guard:
    """Looks at requests before anything is done.

    Args:
        grants: Returns the grants in force; None if nobody is asked for a token.
        host: What the HTTP port listens on.
        loopback: Whether only this machine can reach it.
        open_changes: Whether anybody may change things who reaches it, if nobody is asked for a token. Not where
            callers need a certificate: the HTTP port asks for none, and calls go on with the node's own.
    """

    def __init__(self, grants: Callable[[], Grants] | None, host: str, *, loopback: bool, open_changes: bool) -> None:
        self._grants = grants
        self._names = _LOCAL | {host.strip("[]").lower()}
        self._loopback = loopback
        self._open_changes = open_changes

    @property
    def asks(self) -> bool:
        """True if callers must show a token."""
        return self._grants is not None

    def admit(self, request: web.Request) -> Caller:
        """Return who asks.

        Raises:
            Refused: It is another site's page, or shows no token that is known.
        """
        if MARK not in request.headers:
            raise Refused(403, f"not a call of the console: the header {MARK} is missing")
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc.lower() != request.host.lower():
            raise Refused(403, "a call of another site")
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"}:
            raise Refused(403, "a call of another site")
        if self._grants is None:
            if self._loopback and _name_of(request.host) not in self._names:
                raise Refused(403, "a name that is not of this machine", "Use http://127.0.0.1 and the port.")
            return Caller("", "", None)
        shown = request.headers.get("Authorization", "")
        token = shown.removeprefix(BEARER).strip() if shown.startswith(BEARER) else ""
        grant = self._grants().of(token) if token else None
        if grant is None or grant.role < Role.READ:
            raise Refused(401, "this token is not known" if token else "a token is needed", _SIGN_IN)
        return Caller(token, grant.name, grant.role)

    def admit_change(self, caller: Caller) -> None:
        """Return if a caller may try to change something.

        Raises:
            Refused: It may not.
        """
        why_not = self.why_not_change(caller)
        if why_not:
            raise Refused(403, why_not)

    def why_not_change(self, caller: Caller) -> str:
        """Return why a caller may change nothing; empty if that is for the nodes' gates to say."""
        if caller.role is not None:
            return "" if caller.role >= Role.WRITE else "Your token lets you look only."
        if self._open_changes:
            return ""
        return (
            "This node asks nobody for a token, though others may reach its HTTP port or need certificates elsewhere:"
            " set auth.tokens_file to allow changes."
        )

    def check_role(self, caller: Caller, role: Role) -> None:
        """Return if a caller has a role, for what no gate decides.

        Raises:
            Refused: It has not.
        """
        if caller.role is not None and caller.role < role:
            raise Refused(403, f"the token does not allow this: it takes the role {role.name.lower()}")


def _name_of(host: str) -> str:
    """Return the name in a Host header, without its port."""
    return (urlsplit(f"//{host}").hostname or "").lower()
