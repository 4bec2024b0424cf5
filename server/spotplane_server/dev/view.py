"""The live view: what is up and where, tokens, agents, usage, and the last failover."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.layout import Layout
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from spotplane.v1 import agent_pb2

from spotplane_server.dev.demo import DemoTenant
from spotplane_server.dev.event_log import Narrator
from spotplane_server.dev.stack import Stack
from spotplane_server.dev.watch import Sight, Timeline

_COLOURS: Final = {"online": "green", "offline": "red", "switching": "yellow", "disabled": "dim"}
# Two doors, the token, and the frame.
_HEADER_ROWS: Final = 5


def render(
    stack: Stack,
    tenants: list[DemoTenant],
    sight: Sight,
    narrator: Narrator,
    ready_seconds: float,
) -> RenderableType:
    """The whole screen."""
    screen = Layout()
    screen.split_column(
        Layout(_header(stack, tenants, ready_seconds), size=_HEADER_ROWS + len(tenants)),
        Layout(name="body"),
    )
    screen["body"].split_row(
        Layout(_agents(sight, tenants), ratio=3, minimum_size=50), Layout(name="right", ratio=2)
    )
    screen["right"].split_column(
        Layout(_usage(sight, tenants), size=len(tenants) + 4),
        Layout(_failover(sight), size=12),
        Layout(_story(narrator)),
    )
    return screen


def _header(stack: Stack, tenants: list[DemoTenant], ready_seconds: float) -> RenderableType:
    where = Table.grid(padding=(0, 2))
    where.add_row(Text("REST and gRPC", style="bold"), f"http://{stack.edge}", "through Envoy")
    where.add_row(Text("directly", style="bold"), f"http://{stack.bridge}", f"gRPC {stack.grpc}")
    where.add_row(Text("X-Admin-Token", style="bold"), stack.token, "")
    for tenant in tenants:
        where.add_row(Text(tenant.name, style="bold"), tenant.key, tenant.id)
    title = f"spotplane dev, ready in {ready_seconds:.1f} s, data in {stack.data.path}"
    return Panel(where, title=title, subtitle="Ctrl-C ends all of it", box=box.ROUNDED)


def _agents(sight: Sight, tenants: list[DemoTenant]) -> RenderableType:
    names = {tenant.id: tenant.name.split()[0] for tenant in tenants}
    standing = {agent_id for role, agent_id in sight.roles.values() if role == "replica"}
    table = Table(box=None, expand=True, header_style="bold", padding=(0, 1))
    # On a narrow terminal the others give way to the name.
    for column in ("agent", "tenant", "status", "pool", "replica", "beat"):
        table.add_column(column, no_wrap=True, min_width=9 if column == "agent" else None)
    for agent in sight.agents:
        status = Text(agent.status, style=_COLOURS.get(agent.status, "yellow"))
        table.add_row(
            agent.logical_agent_id,
            names.get(agent.tenant_id, agent.tenant_id[:8]),
            status,
            agent.pool_id or agent.instance_type,
            _replica(agent, standing),
            _ago(agent),
        )
    connected = sum(agent.connected for agent in sight.agents)
    return Panel(table, title=f"{connected} of {len(sight.agents)} agents connected")


def _replica(agent: agent_pb2.Agent, standing: set[str]) -> Text:
    if agent.id in standing:
        return Text("stands by", style="cyan")
    return Text("ordered" if agent.config.manual_replica_enabled else "", style="dim")


def _ago(agent: agent_pb2.Agent) -> str:
    if not agent.HasField("last_heartbeat_at"):
        return ""
    seconds = (datetime.now(UTC) - agent.last_heartbeat_at.ToDatetime(UTC)).total_seconds()
    return f"{max(0.0, seconds):.0f} s ago"


def _usage(sight: Sight, tenants: list[DemoTenant]) -> RenderableType:
    table = Table(box=None, expand=True, header_style="bold", padding=(0, 1))
    for column in ("tenant", "requests", "tokens", "cost", "a minute", "p95"):
        table.add_column(column, justify="left" if column == "tenant" else "right")
    for tenant in tenants:
        now = sight.usage.get(tenant.id)
        if now is not None:
            table.add_row(
                tenant.name,
                f"{now.requests:,}",
                f"{now.tokens:,}",
                f"${now.cost_usd:.4f}",
                f"{now.per_minute:,}",
                f"{now.p95_ms:,.0f} ms",
            )
    return Panel(table, title="usage this hour, by REST")


def _failover(sight: Sight) -> RenderableType:
    if sight.last is None:
        return Panel(Text("none yet", style="dim"), title="last failover")
    return Panel(_timeline(sight.last), title=f"failover {sight.failovers}: {sight.last.agent}")


def _timeline(line: Timeline) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", style="bold")
    table.add_column()
    for milliseconds, what in line.steps():
        table.add_row(f"{milliseconds:+.1f} ms", what)
    return Group(Text(f"{line.old} -> {line.new or '…'}"), table)


def _story(narrator: Narrator) -> RenderableType:
    text = Text(no_wrap=True, overflow="ellipsis")
    # The newest first: what does not fit is cut off at the bottom.
    for at, line in reversed(narrator.lines):
        text.append(f"{at} ", style="dim")
        text.append(f"{line}\n")
    return Panel(text, title="what happens")
