"""``token``: a new token, and what the nodes' file of tokens has to say of it."""

from __future__ import annotations

import json
import secrets
from typing import Annotated

import typer

from cachenode.cli.errors import CliError, ExitCode, reports
from cachenode.cli.options import Format, Output
from cachenode.cli.output import print_json

__all__ = ["token"]

_BYTES = 32


@reports
def token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is; shown in logs.", show_default=False)],
    role: Annotated[str, typer.Option("--role", metavar="read|write|admin|peer", help="What it allows.")] = "write",
    namespace: Annotated[
        list[str] | None,
        typer.Option("--namespace", "-n", metavar="NAME", help="The only one that it is for; may be repeated."),
    ] = None,
    keys_per_s: Annotated[
        int, typer.Option(min=0, help="Most keys a second for its bearers at a node; 0: limits.client_keys_per_s.")
    ] = 0,
    output: Output = Format.TABLE,
) -> None:
    """Make a token, and the lines for the nodes' tokens_file that let its bearer in.

    The token goes to a file that its bearer alone can read; nobody can get it from the lines. Running nodes look at
    their file once a second.
    """
    from cachenode.core.access import Role, hash_of
    from cachenode_api.errors import InvalidNamespace
    from cachenode_api.keys import check_namespace

    if role.upper() not in Role.__members__:
        raise CliError("--role: must be read, write, admin or peer", code=ExitCode.USAGE)
    names = namespace or []
    for each in names:
        try:
            check_namespace(each)
        except InvalidNamespace as error:
            raise CliError(f"--namespace: {error}", code=ExitCode.USAGE) from None
    secret = secrets.token_urlsafe(_BYTES)
    lines = ["[[token]]", f"name = {json.dumps(name)}", f'sha256 = "{hash_of(secret)}"', f'role = "{role.lower()}"']
    lines += [f"namespaces = {json.dumps(names)}"] if names else []
    lines += [f"keys_per_s = {keys_per_s}"] if keys_per_s else []
    block = "\n".join(lines)
    if output is Format.JSON:
        print_json(
            {
                "token": secret,
                "sha256": hash_of(secret),
                "name": name,
                "role": role,
                "namespaces": names,
                "keys_per_s": keys_per_s,
            }
        )
        return
    print(f"The token, for its bearer:\n\n{secret}\n\nFor the nodes' tokens_file:\n\n{block}")  # noqa: T201 - the result
