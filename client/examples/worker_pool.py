"""A WSGI application in a pool of threads, all of which share one blocking client and its near cache.

    python client/examples/worker_pool.py [HOST:PORT]

Under a real server: `gunicorn --threads 8 worker_pool:application`, with CACHENODE_ADDRESS set.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from wsgiref.util import setup_testing_defaults

from cachenode_client.blocking import CacheClient
from local import cluster

REQUESTS = 2_000
loads: list[str] = []


@functools.cache
def cache() -> CacheClient:
    """Return the client of this process: made by the first request, since a client does not survive a fork."""
    return CacheClient(os.environ["CACHENODE_ADDRESS"], near_cache=16 << 20)


def load_product(number: str) -> dict[str, Any]:
    """Stand for a query; it runs in the thread of the request that loads."""
    loads.append(number)
    time.sleep(0.05)
    return {"id": number, "cents": 1_200}


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer GET /products/NUMBER."""
    number = environ["PATH_INFO"].removeprefix("/products/")
    product = cache().get_or_load(f"product:{number}", lambda: load_product(number), ttl_s=60)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(product).encode()]


def request(number: int) -> Any:
    """Do what a server's worker does with a request."""
    environ: dict[str, Any] = {"PATH_INFO": f"/products/{number % 10}"}
    setup_testing_defaults(environ)
    return json.loads(b"".join(application(environ, lambda _status, _headers: None)))


def main(address: str) -> None:
    """Serve many requests, change a product in "another process", and serve it once more."""
    os.environ["CACHENODE_ADDRESS"] = address
    with CacheClient(address) as other:
        other.invalidate(prefix="product:")
        with ThreadPoolExecutor(8) as workers:
            began = time.perf_counter()
            list(workers.map(request, range(REQUESTS)))
            took_s = time.perf_counter() - began
            near = cache().stats()["near_hits"]
            print(f"{REQUESTS} requests in {took_s:.1f} s: {len(loads)} loads, {near} near hits")
            other.set(
                "product:7", {"id": "7", "cents": 900}, ttl_s=60
            )  # when this returns, nobody serves the old price
            print(
                "after the change all workers say:", {product["cents"] for product in workers.map(request, [7] * 100)}
            )
    cache().close()


if __name__ == "__main__":
    with cluster() as found:
        main(found)
