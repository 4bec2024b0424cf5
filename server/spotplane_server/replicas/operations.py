"""What an operator has done with a replica, in the one transaction that the caller holds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from spotplane_server.agents.primary import Reason
from spotplane_server.agents.store import Locked
from spotplane_server.instances import store as instances
from spotplane_server.kernel.db.database import Conn
from spotplane_server.replicas import errors, placement, store
from spotplane_server.replicas.lifecycle import Replicas
from spotplane_server.replicas.placement import Wish
from spotplane_server.replicas.store import Replica


@dataclass(frozen=True, slots=True)
class Promotion:
    """How a replica is to be promoted.

    Attributes:
        wait_for_sync: Accept only one that is ready.
        demote: Keep the old primary standing by.
        consent: The old primary may be ended.
        renew: Whether another replica follows; None for the agent's mode.
    """

    wait_for_sync: bool = False
    demote: bool = False
    consent: bool = False
    renew: bool | None = None


class Operations:
    """Promotions and ends that a person asked for; the caller holds the agent's row."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas

    async def promote(
        self, conn: Conn, agent: Locked, replica: Replica, how: Promotion, now: datetime
    ) -> None:
        """Promote, and see to what stands by next.

        Raises:
            ReplicaNotPromotable: As `Replicas.promote`, or it is to be ready and is not.
        """
        if how.wait_for_sync and replica.status != "ready":
            raise errors.ReplicaNotPromotable(
                f"the replica is {replica.status}, not ready", status=replica.status
            )
        former = await instances.find_primary(conn, agent.tenant_id, agent.id)
        reason = Reason(
            former_to="running_replica" if how.demote else "zombie",
            consent=how.consent and not how.demote,
        )
        left = await self._replicas.promote(conn, replica, cause="user", now=now, reason=reason)
        demoted = how.demote and former is not None
        await store.note_promotion(conn, replica, replaced=left, demoted=demoted)
        if demoted and former is not None:
            wish = Wish("user", for_manual_mode=agent.config.manual_replica_enabled)
            place = placement.of_instance(former, "manual", wish)
            await self._replicas.demote(conn, former, place, now)
            return
        await self._renew(conn, agent, replica, how.renew, now)

    async def end(self, conn: Conn, agent: Locked, replica: Replica, now: datetime) -> None:
        """Mark terminated, and in manual mode ask for another.

        Raises:
            ReplicaAlreadyFinal: It is terminated or promoted already.
        """
        await self._replicas.end(conn, replica, now)
        await self._renew(conn, agent, replica, None, now)

    async def _renew(
        self, conn: Conn, agent: Locked, replica: Replica, wanted: bool | None, now: datetime
    ) -> None:
        manual_mode = agent.config.manual_replica_enabled
        if not (manual_mode if wanted is None else wanted):
            return
        primary = await instances.find_primary(conn, agent.tenant_id, agent.id)
        live = await store.find_live(conn, agent.tenant_id, agent.id)
        if primary is None or live is not None:
            return
        wish = Wish("coordinator" if manual_mode else "user", for_manual_mode=manual_mode)
        try:
            place = await placement.for_manual(conn, primary, wish, now)
        except errors.NoPoolAvailable:
            return  # the coordinator goes on trying, and nobody is worse off than before
        successor = await self._replicas.request(conn, primary, place, now)
        await store.note_successor(conn, replica, successor.id)
