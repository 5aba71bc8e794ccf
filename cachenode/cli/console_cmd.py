"""``console``: where the web console is, and opening it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cachenode.cli.errors import CliError, ExitCode, reports
from cachenode.cli.keys import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S
from cachenode.cli.options import Address, Format, Output, Timeout
from cachenode.cli.output import console, print_json

if TYPE_CHECKING:
    from cachenode_client import Tls

__all__ = ["web_console"]


@reports
def web_console(
    opens: Annotated[bool, typer.Option("--open", help="Open the first one in a browser.")] = False,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = Format.TABLE,
) -> None:
    """Print where the nodes' web consoles are; each shows the whole cluster.

    A node whose console is off, or whose HTTP port cannot be reached from here, is left out. The exit code is 3 if none
    is left.
    """
    found = asyncio.run(_found(address, timeout))
    if output is Format.JSON:
        print_json({"consoles": [{"node_id": node, "url": url} for node, url in found.items()]})
    else:
        for url in found.values():
            console().print(url, markup=False, soft_wrap=True)
    if not found:
        hint = "Set http.console = true where others reach the port, too: see `cachenode docs console`."
        raise CliError("no node serves a console that is reached from here", hint=hint, code=ExitCode.NOT_FOUND)
    if opens:
        import webbrowser

        webbrowser.open(next(iter(found.values())))


async def _found(address: str, timeout_s: float) -> dict[str, str]:
    from aiohttp import ClientSession, ClientTimeout

    from cachenode.cli.admin import first_view
    from cachenode.cli.connection import tls_settings

    asked, _ = await first_view(address, timeout_s)
    shown = tls_settings()
    scheme = "http" if shown is None else "https"
    urls = {each.id: f"{scheme}://{each.http_address}/ui/" for each in asked.view.members if each.http_address}
    async with ClientSession(timeout=ClientTimeout(total=timeout_s)) as session:
        there = await asyncio.gather(*(_is_there(session, url, shown) for url in urls.values()))
    return {node: url for (node, url), is_there in zip(urls.items(), there, strict=True) if is_there}


async def _is_there(session: Any, url: str, shown: Tls | None) -> bool:  # noqa: ANN401 - aiohttp's, whose import costs time
    from aiohttp import ClientError

    try:
        async with session.get(url, allow_redirects=False, ssl=_trust(shown)) as answer:
            return bool(answer.status == 200)
    except (ClientError, TimeoutError, OSError):
        return False


def _trust(shown: Tls | None) -> Any:  # noqa: ANN401 - what aiohttp takes
    import ssl

    if shown is None:
        return True
    context = ssl.create_default_context(cafile=shown.ca_file)
    context.check_hostname = not shown.server_name  # the name is another one there, and the authority vouches for it
    return context
