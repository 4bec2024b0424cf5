"""Turns an exception into the status, message and trailers of the response."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import asyncpg
import grpc
import grpc.aio
import structlog

from spotplane_server.kernel import errors
from spotplane_server.kernel.db import database
from spotplane_server.kernel.errors import DomainError
from spotplane_server.kernel.request_context import Call

log = structlog.get_logger(__name__)

# Response headers that errors have too.
_HEADERS_OF_ERRORS: Final = ("x-ratelimit-", "idempotent-replayed")


@dataclass(frozen=True, slots=True)
class Failure:
    """The end of a call that failed.

    It holds no exception: a frame that keeps one is kept by its traceback in turn, with all its
    variables, and requests would stay in memory until the garbage collector finds such a cycle.
    """

    code: grpc.StatusCode
    message: str
    trailers: tuple[tuple[str, str | bytes], ...]

    @classmethod
    def of(cls, err: Exception, call: Call) -> Failure:
        """The end of a call that raised an exception."""
        error, correlation_id = as_domain(err), call.correlation_id
        trailers: list[tuple[str, str | bytes]] = [
            (
                "grpc-status-details-bin",
                errors.to_status(error, correlation_id).SerializeToString(),
            ),
            ("x-spotplane-http-status", str(error.http_status)),
            ("x-spotplane-error", errors.to_header(error, correlation_id)),
            ("x-request-id", correlation_id),
        ]
        if error.retry_after_seconds is not None:
            trailers.append(("retry-after", str(max(1, math.ceil(error.retry_after_seconds)))))
        trailers += [(k, v) for k, v in call.headers.items() if k.startswith(_HEADERS_OF_ERRORS)]
        return cls(error.code, error.message, tuple(trailers))

    async def send(self, context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
        """End the call.

        Raises:
            grpc.aio.AbortError: Always; the context keeps it.
        """
        ending = context.abort(self.code, self.message, self.trailers)
        del context  # the context keeps the exception, whose traceback keeps this frame
        await ending


def detached(err: grpc.aio.AbortError) -> grpc.aio.AbortError:
    """An abort by a handler, without what its traceback and its cause hold; see `Failure`."""
    err.__context__ = None
    return err.with_traceback(None)


def as_domain(err: Exception) -> DomainError:
    """The error that a caller sees; an unexpected one is logged and hidden."""
    if isinstance(err, DomainError):
        return err
    if isinstance(err, asyncpg.QueryCanceledError):
        return errors.DeadlineExceeded("the database took too long")
    if isinstance(err, database.CONNECTION_ERRORS):
        log.warning("database_away", exc_info=err)
        return database.database_unavailable()
    log.error("unforeseen_error", exc_info=err)
    return errors.Internal()
