"""What a stranger may send, how often and how much at a time: the table ``[limits]``."""

from __future__ import annotations

import math

from pydantic import Field

from cachenode.config.fields import Bytes, Count, Seconds, Section, Span
from cachenode.core.limits import Limits
from cachenode.core.shedding import ShedLimits
from cachenode_api.dependencies import MAX_PARENTS
from cachenode_api.globs import MAX_STARS
from cachenode_api.keys import MAX_KEY_BYTES
from cachenode_api.selectors import MAX_GLOB_BYTES
from cachenode_api.tags import MAX_TAGS

__all__ = ["LimitsConfig"]

_MIB = 1024 * 1024


class LimitsConfig(Section):
    """What one call, client or shutdown may cost."""

    max_frame_bytes: Bytes = Field(
        4 * _MIB, ge=64 * 1024, le=512 * _MIB, description="Largest gRPC message, also once it is decompressed"
    )
    max_value_bytes: Bytes = Field(_MIB, ge=1, le=64 * _MIB, description="Largest value of any namespace")
    max_key_bytes: Bytes = Field(MAX_KEY_BYTES, ge=1, le=MAX_KEY_BYTES, description="Longest key")
    max_batch_keys: Count = Field(10_000, ge=1, le=1_000_000, description="Most keys in one call")
    max_tags: Count = Field(MAX_TAGS, ge=0, le=MAX_TAGS, description="Most tags of one entry, each of up to 128 bytes")
    max_parents: Count = Field(MAX_PARENTS, ge=0, le=MAX_PARENTS, description="Most keys that one entry depends on")
    max_selectors: Count = Field(
        1_000, ge=1, le=100_000, description="Most prefixes, patterns and tags in one invalidation"
    )
    max_pattern_bytes: Bytes = Field(MAX_GLOB_BYTES, ge=1, le=MAX_GLOB_BYTES, description="Longest pattern")
    max_pattern_stars: Count = Field(MAX_STARS, ge=0, le=MAX_STARS, description="Most stars in one pattern")
    max_metadata_bytes: Bytes = Field(
        8 * 1024, ge=1024, le=_MIB, description="Most metadata (headers) of one call, as HTTP/2 counts it"
    )
    max_sessions: Count = Field(10_000, ge=1, le=1_000_000, description="Most clients at a time")
    max_session_keys: Count = Field(
        100_000, ge=1, le=10_000_000, description="Most keys of one client that wait for an answer at a time"
    )
    max_session_leases: Count = Field(
        10_000, ge=1, le=1_000_000, description="Most loads that one client may have open at a time"
    )
    max_calls: Count = Field(2_000, ge=1, le=1_000_000, description="Most unary calls under way at a time")
    client_keys_per_s: Count = Field(
        0,
        ge=0,
        le=1_000_000_000,
        description="Most keys a second that the bearers of one token or certificate ask a node for, if its table does"
        " not say; 0: any number",
    )
    max_watchers: Count = Field(
        1_000, ge=0, le=1_000_000, description="Most streams at a time that watch events or the progress of a job"
    )
    max_connections: Count = Field(
        10_000,
        ge=8,
        le=1_000_000,
        description="Most gRPC connections at a time; fewer where file descriptors are short",
    )
    max_streams: Count = Field(1_000, ge=8, le=100_000, description="Most calls at a time on one gRPC connection")
    handshake_timeout_s: Seconds = Field(3.0, description="How long who connects may take until gRPC is spoken")
    connection_idle_s: Span = Field(
        300.0, le=86_400, description="gRPC connections without a call for so long are closed; 0: never"
    )
    connection_age_s: Span = Field(
        0.0,
        le=86_400,
        description="gRPC connections so old are asked to end, and do after stop_grace_s, sessions too; 0: never",
    )
    min_ping_interval_s: Seconds = Field(
        1.0, le=5.0, description="How often a connection may be pinged; clients and peers ping every ten seconds"
    )
    max_ping_strikes: Count = Field(
        2, ge=1, le=1_000, description="Pings that come sooner than that, after which a connection is closed"
    )
    max_http_connections: Count = Field(
        128,
        ge=4,
        le=100_000,
        description="Most connections to the HTTP port at a time; fewer where file descriptors are short",
    )
    max_http_header_bytes: Bytes = Field(
        8 * 1024, ge=1024, le=1024 * 1024, description="Longest header of a request on the HTTP port, of 64 at most"
    )
    http_timeout_s: Seconds = Field(
        10.0, description="How long a request on the HTTP port may take, from its first byte to the end of its answer"
    )
    http_idle_s: Seconds = Field(
        75.0, le=86_400, description="HTTP connections without a request for so long are closed"
    )
    shed_lag_s: Span = Field(
        1.0, le=3_600, description="How late the event loop may be; beyond it loads, then writes are refused; 0: never"
    )
    shed_keys: Count = Field(
        200_000, ge=0, le=1_000_000_000, description="The same for keys of calls that wait for something; 0: any number"
    )
    shed_bytes: Bytes = Field(256 * _MIB, ge=0, description="The same for the values that these calls bring; 0: any")
    shed_loads: Count = Field(20_000, ge=0, le=1_000_000_000, description="The same for loads under way; 0: any number")
    call_timeout_s: Seconds = Field(
        5.0, description="Longest that a call may take, and the time of calls that bring none"
    )
    stop_grace_s: Span = Field(5.0, le=3_600, description="How long a stopping node waits for calls under way")

    def shed(self) -> ShedLimits:
        """Return where a node begins to refuse work."""
        limits = (self.shed_lag_s, self.shed_keys, self.shed_bytes, self.shed_loads)
        return ShedLimits(*(limit or math.inf for limit in limits))

    def entries(self) -> Limits:
        """Return what one entry, invalidation and session may be or hold."""
        return Limits(
            key_bytes=self.max_key_bytes,
            tags=self.max_tags,
            parents=self.max_parents,
            selectors=self.max_selectors,
            pattern_bytes=self.max_pattern_bytes,
            pattern_stars=self.max_pattern_stars,
            leases=self.max_session_leases,
        )
