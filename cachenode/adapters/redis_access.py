"""How a node logs in to Redis, and how it tells a Redis from somebody else: users, passwords, certificates.

Secrets are in files. A password is read whenever a connection is made, so one that is changed is used without a
restart, and so are certificates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError

from cachenode.adapters.tokens import read_secret
from cachenode.core.redis_url import RedisAddress
from cachenode.errors import ConfigError

__all__ = ["NO_ACCESS", "RedisAccess"]


@dataclass(frozen=True, slots=True)
class RedisAccess:
    """What a URL does not say. Where it names a user or a password, those count.

    Attributes:
        username: Name of the user, "" for the default one.
        password_file: Holds the password; "" for none.
        sentinel_username: The same for sentinels, which have users of their own.
        sentinel_password_file: As above.
        ca_file: Authorities whose certificates of a server are believed; "" for the usual ones.
        cert_file: Certificate that is shown to servers; "" for none.
        key_file: Its key.
    """

    username: str = ""
    password_file: str = ""
    sentinel_username: str = ""
    sentinel_password_file: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""

    def check(self) -> None:
        """Read every file once.

        Raises:
            ConfigError: Some cannot be used.
        """
        problems: list[str] = []
        for name in ("password_file", "sentinel_password_file", "ca_file", "cert_file", "key_file"):
            path = getattr(self, name)
            if path:
                try:
                    read_secret(f"l2.{name}", path)
                except ConfigError as error:
                    problems += error.problems
        if problems:
            raise ConfigError(problems)

    def login(self, address: RedisAddress) -> Mapping[str, Any]:
        """Return redis-py's options to log in to a server."""
        if address.username or address.password:
            return {"username": address.username, "password": address.password}
        return _login(self.username, self.password_file)

    def sentinel_login(self) -> Mapping[str, Any]:
        """Return redis-py's options to log in to sentinels."""
        return _login(self.sentinel_username, self.sentinel_password_file)

    def tls(self) -> Mapping[str, Any]:
        """Return redis-py's options of a connection with TLS. A server's name is always compared."""
        files = {"ssl_ca_certs": self.ca_file, "ssl_certfile": self.cert_file, "ssl_keyfile": self.key_file}
        return {"ssl_check_hostname": True, **{name: path for name, path in files.items() if path}}


NO_ACCESS = RedisAccess()
"""Says nothing: no password, the usual authorities."""


class _PasswordFile(CredentialProvider):
    def __init__(self, username: str, path: str) -> None:
        self._username = username
        self._path = path

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            password = read_secret("the file with the password", self._path)
        except ConfigError as error:  # a file that is being replaced must not look like anything but a failed login
            raise AuthenticationError(error.problems[0]) from None
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()


def _login(username: str, password_file: str) -> Mapping[str, Any]:
    return {"credential_provider": _PasswordFile(username, password_file)} if password_file else {}
