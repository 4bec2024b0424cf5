"""The command line; what a command needs is imported when it runs, so that help is quick."""

from __future__ import annotations

import os

import typer

from spotplane_server.cli import (
    admin,
    backtest,
    bench,
    call,
    development,
    documents,
    environment,
    processes,
    provisioning,
)

app = typer.Typer(
    name="spotplane",
    help="A multi-tenant control plane for spot compute.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# These log what they find, in the form of their logs.
_LOGGING = {"server", "bridge"}


@app.callback()
def warn(context: typer.Context) -> None:
    """A multi-tenant control plane for spot compute."""
    if context.invoked_subcommand not in _LOGGING:
        for unknown in environment.find_unknown(os.environ):
            typer.echo(f"warning: {unknown}", err=True)


app.command("dev")(development.dev)
app.command("server")(processes.server)
app.command("bridge")(processes.bridge)
app.command("migrate")(processes.migrate)
app.command("agent")(processes.agent)
app.command("provisioner")(provisioning.provisioner)
app.add_typer(admin.app, name="admin")
app.command("call")(call.call)
app.command("openapi")(documents.openapi)
app.command("envoy")(documents.envoy)
app.command("backtest")(backtest.backtest)
# Its own command line parses what follows, `--help` included.
app.command(
    "bench",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(bench.bench)

__all__ = ["app"]
