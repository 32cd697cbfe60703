"""Dispatch of events by their channels."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Generic, TypeVar

from .events import Event, Gap, Message

__all__ = ["Router"]

R = TypeVar("R")


class Router(Generic[R]):
    """Calls a handler by the event's channel, and returns what that returns.

    A router is itself a handler, for Subscription.handle(); with handlers that are
    coroutine functions, for AsyncSubscription.handle(). One that has no handler for an
    event raises LookupError: events are not lost silently.
    """

    def __init__(self) -> None:
        self._channels: dict[str, Callable[[Message], R]] = {}
        self._patterns: list[tuple[re.Pattern[str], Callable[[Message], R]]] = []
        self._gap: Callable[[Gap], R] | None = None
        self._other: Callable[[Message], R] | None = None

    def on(self, channel: str) -> Callable[[Callable[[Message], R]], Callable[[Message], R]]:
        """Decorate the handler of a channel, or of those that a pattern matches.

        In a pattern, * stands for any run of characters. A channel's own handler goes
        before patterns, one pattern before those that are registered after it.
        """

        def register(handler: Callable[[Message], R]) -> Callable[[Message], R]:
            if "*" in channel:
                expression = ".*".join(map(re.escape, channel.split("*")))
                self._patterns.append((re.compile(expression, re.DOTALL), handler))
            else:
                self._channels[channel] = handler
            return handler

        return register

    def on_gap(self, handler: Callable[[Gap], R]) -> Callable[[Gap], R]:
        """Decorate the handler of gaps."""
        self._gap = handler
        return handler

    def on_other(self, handler: Callable[[Message], R]) -> Callable[[Message], R]:
        """Decorate the handler of messages whose channel has none."""
        self._other = handler
        return handler

    def __call__(self, event: Event) -> R:
        """Call the event's handler."""
        if isinstance(event, Gap):
            if self._gap is None:
                raise LookupError("gaps have no handler")
            return self._gap(event)
        handler = self._channels.get(event.channel)
        if handler is None:
            for pattern, candidate in self._patterns:
                if pattern.fullmatch(event.channel):
                    handler = candidate
                    break
            else:
                handler = self._other
        if handler is None:
            raise LookupError(f"channel {event.channel!r} has no handler")
        return handler(event)
