"""The instances of one replayed service: what they are, and what befalls them by the second."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from spotplane_server.decisions.backtest.optimum import ON_DEMAND
from spotplane_server.decisions.backtest.recording import Recording

Role: TypeAlias = Literal["serving", "standby", "booting"]

NEVER: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Rules:
    """What a cloud takes and asks; the price in nano-USD an hour."""

    on_demand: int
    boot_seconds: int = 180
    notice_seconds: int = 120


@dataclass(slots=True, eq=False)
class Instance:
    """One instance; times are seconds of the recording.

    Attributes:
        pool: Index of its zone, or ``ON_DEMAND``.
        ready_at: When it can serve.
        notice_at: When its loss is announced, though not before it was launched.
        loss_at: When it is taken.
        booted, noticed: Whether these have happened.
    """

    pool: int
    ready_at: int
    notice_at: int = NEVER
    loss_at: int = NEVER
    booted: bool = False
    noticed: bool = False

    def doomed(self, now: int) -> bool:
        """Whether its loss has been announced."""
        return self.notice_at <= now


@dataclass(slots=True)
class Events:
    """What happened at one second.

    Attributes:
        noticed: Pools where instances were given notice.
        threats: How many serving instances learned that they will be taken; one that serves only
            because nothing better is left, and knew before, counts as it begins.
        any: Whether any of it is news to the engine.
    """

    noticed: list[int] = field(default_factory=list)
    threats: int = 0
    switched: bool = False
    went_down: bool = False
    any: bool = False


class Fleet:
    """The serving instance, the one that takes over next, and the standbys."""

    def __init__(self, market: Recording, rules: Rules) -> None:
        self._rules = rules
        self._market = market
        self._ends = [
            [
                market.starts[tick]
                for tick in range(1, len(market.available))
                if market.available[tick - 1][zone] and not market.available[tick][zone]
            ]
            for zone in range(len(market.zones))
        ]
        self.serving: Instance | None = Instance(ON_DEMAND, 0)
        self.last = self.serving
        self.serving_since = 0
        self.moving: Instance | None = None
        self.spares: list[Instance] = []
        self._kept: Sequence[int] = ()

    @property
    def threatened(self) -> bool:
        """Whether there is nothing that serves and goes on to do so."""
        return self.serving is None or self.serving.noticed

    def standby(self, now: int) -> Instance | None:
        """The standby that will be there, the one that is ready first."""
        alive = [spare for spare in self.spares if not spare.doomed(now)]
        return min(alive, key=lambda spare: spare.ready_at, default=None)

    def will_hold(self, pool: int, now: int) -> bool:
        """Whether a spare in a pool is there and stays, or will be once a move is done."""
        stepping_back = self.serving if self.moving is not None else None
        return any(
            spare is not None and spare.pool == pool and not spare.doomed(now)
            for spare in (*self.spares, stepping_back)
        )

    def launch(self, pool: int, now: int, tick: int) -> Instance | None:
        """Start an instance; None where there is no capacity."""
        ready_at = now + self._rules.boot_seconds
        if pool == ON_DEMAND:
            return Instance(ON_DEMAND, ready_at)
        if not self._market.available[tick][pool]:
            return None
        ends = self._ends[pool]
        index = bisect_left(ends, now + 1)
        if index == len(ends):
            return Instance(pool, ready_at)
        loss_at = ends[index]
        notice_at = max(now + 1, loss_at - self._rules.notice_seconds)
        return Instance(pool, ready_at, notice_at, loss_at)

    def take_spare(self, pool: int, now: int) -> Instance | None:
        """Take a lasting spare in a pool out of the spares, the one that is ready first."""
        found = [s for s in self.spares if s.pool == pool and not s.doomed(now)]
        if not found:
            return None
        first = min(found, key=lambda spare: spare.ready_at)
        self.spares.remove(first)
        return first

    def move_to(self, instance: Instance, now: int) -> None:
        """Let an instance take over as soon as it is ready; the one before it becomes a spare."""
        if self.moving is not None:
            self.spares.append(self.moving)
        self.moving = instance

    def keep(self, wanted: Sequence[int], now: int) -> None:
        """End the spares that nobody wants.

        One that is replaced stays until its successor has booted, and what is doomed until it is
        taken, for it may still help.
        """
        self._kept = list(wanted)
        free = list(wanted)
        kept, others, booting = [], [], 0
        for spare in sorted(self.spares, key=lambda s: s.ready_at):
            if spare.doomed(now):
                kept.append(spare)
            elif spare.pool in free:
                free.remove(spare.pool)
                kept.append(spare)
                booting += spare.ready_at > now
            elif spare.ready_at <= now:
                others.append(spare)
        self.spares = kept + others[:booting]

    def next_event(self, now: int) -> int:
        """The next second after ``now`` at which something befalls an instance."""
        following = NEVER
        for instance in self._all():
            for at in (instance.ready_at, instance.notice_at, instance.loss_at):
                if now < at < following:
                    following = at
        return following

    def advance(self, now: int) -> Events:
        """Let happen what happens at a second: boots end, losses come, notices arrive."""
        events = Events()
        for instance in self._all():
            if instance.ready_at <= now and not instance.booted:
                instance.booted = True
                events.any = True
            if instance.notice_at <= now and not instance.noticed:
                instance.noticed = True
                events.any = True
                events.noticed.append(instance.pool)
                events.threats += instance is self.serving
        before = self.serving
        self._remove_lost(now)
        if self.threatened or (self.moving is not None and self.moving.ready_at <= now):
            self._replace(now)
        if self.serving is not None and self.serving is not before:
            events.switched = True
            events.threats += self.serving.noticed
        events.went_down = before is not None and self.serving is None
        events.any |= events.switched or events.went_down
        return events

    def roles(self, now: int) -> Iterator[tuple[Instance, Role]]:
        """Every instance that is billed, with what it does."""
        for instance in self._all():
            if instance is self.serving:
                yield instance, "serving"
            else:
                yield instance, "standby" if instance.ready_at <= now else "booting"

    def _all(self) -> Iterator[Instance]:
        if self.serving is not None:
            yield self.serving
        if self.moving is not None:
            yield self.moving
        yield from self.spares

    def _remove_lost(self, now: int) -> None:
        if self.serving is not None and self.serving.loss_at <= now:
            self.last = self.serving
            self.serving = None
            self.serving_since = now
        if self.moving is not None and self.moving.loss_at <= now:
            self.moving = None
        self.spares = [spare for spare in self.spares if spare.loss_at > now]

    def _replace(self, now: int) -> None:
        """Let whatever is ready take over from what is left, is going, or is gone."""
        if self.moving is not None and self.moving.doomed(now):
            self.spares.append(self.moving)
            self.moving = None
        if self.moving is not None and self.moving.ready_at <= now:
            self._take_over(self.moving, now)
        if not self.threatened:
            return
        spare = self.standby(now)
        if spare is not None and spare.ready_at <= now:
            self._take_over(spare, now)
        elif spare is not None and self.moving is None:
            self.spares.remove(spare)
            self.moving = spare
        elif self.serving is None:
            # Doomed, but it serves until it is taken.
            ready = [spare for spare in self.spares if spare.ready_at <= now]
            if ready:
                self._take_over(max(ready, key=lambda spare: spare.loss_at), now)

    def _take_over(self, instance: Instance, now: int) -> None:
        """Let a booted instance serve; the one before it stands by if that is wanted, or ends."""
        if instance is self.moving:
            self.moving = None
        else:
            self.spares.remove(instance)
        before = self.serving
        if before is not None and before.pool in self._kept and not before.doomed(now):
            self.spares.append(before)
        self.serving = self.last = instance
        self.serving_since = now
