"""Simulated cloud of the modelled agents: instances and notices."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from aiohttp import ClientSession, DummyCookieJar, TCPConnector
from yarl import URL

from tests.legacy.field import Field
from tests.support.clock import FakeClock

REGION: Final = "us-east-1"
TYPE: Final = "m5.large"
ON_DEMAND: Final = 0.096
# Spot prices by zone.
PRICES: Final = {"us-east-1a": 0.040, "us-east-1b": 0.035, "us-east-1c": 0.045}


def pool(az: str) -> str:
    """Return the id of the type's pool in a zone."""
    return f"{TYPE}.{az}"


@dataclass
class Machine:
    """One instance, as its metadata service describes it."""

    id: str
    az: str
    mode: str
    address: str
    running: bool = True
    # Time of its termination, after a notice.
    notice: datetime | None = None
    rebalance: bool = False

    @property
    def pool_id(self) -> str | None:
        """Its pool; None on demand."""
        return pool(self.az) if self.mode == "spot" else None

    def describe(self) -> dict[str, object]:
        """Return the instance as reports name it."""
        return {
            "instance_id": self.id,
            "instance_type": TYPE,
            "region": REGION,
            "az": self.az,
            "ami_id": "ami-0abc",
            "mode": self.mode,
            "pool_id": self.pool_id,
        }


@dataclass
class Cloud:
    """Launches and terminates machines, and sends notices.

    Attributes:
        now: The time.
        plane: Address of the server.
        prices: Spot prices by zone; the cloud may change them.
    """

    now: Callable[[], datetime]
    plane: URL
    prices: dict[str, float] = field(default_factory=lambda: dict(PRICES))
    machines: dict[str, Machine] = field(default_factory=dict)
    _http: dict[str, ClientSession] = field(default_factory=dict)

    @classmethod
    @asynccontextmanager
    async def before(cls, plane: Field, clock: FakeClock) -> AsyncIterator[Cloud]:
        """Return a cloud with machines that reach a server."""
        async with plane.send("GET", "/health") as response:
            cloud = cls(clock.now, response.url.origin())
        try:
            yield cloud
        finally:
            for http in cloud._http.values():
                await http.close()

    def launch(self, az: str, mode: str) -> Machine:
        """Start a machine; it runs at once."""
        number = len(self.machines) + 1
        # Addresses of the loopback, so that the plane sees each machine under its own.
        made = Machine(f"i-{number:017x}", az, mode, f"127.0.1.{number}")
        self.machines[made.id] = made
        return made

    def terminate(self, instance_id: str) -> None:
        """Terminate a machine; no effect when repeated."""
        self.machines[instance_id].running = False

    def give_notice(self, machine: Machine, seconds: int = 120) -> None:
        """Send a machine a termination notice."""
        machine.notice = self.now() + timedelta(seconds=seconds)

    def running(self) -> set[str]:
        """Ids of the running machines, which cost money."""
        return {machine.id for machine in self.machines.values() if machine.running}

    def http(self, machine: Machine) -> ClientSession:
        """Connections from a machine's own address."""
        if machine.id not in self._http:
            self._http[machine.id] = ClientSession(
                self.plane,
                connector=TCPConnector(local_addr=(machine.address, 0)),
                cookie_jar=DummyCookieJar(),
            )
        return self._http[machine.id]
