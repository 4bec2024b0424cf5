"""Exceptions of the SDK."""


class AgentError(Exception):
    """Base of all exceptions that the SDK raises deliberately."""


class SessionReplaced(AgentError):
    """Another process holds this instance's session, so this one must end."""


class SpoolFull(AgentError):
    """The spool is full, and no report in it may be dropped for this one."""


class StateUnavailable(AgentError):
    """The state directory cannot be read or written; the cause has the reason."""


class StateClosed(StateUnavailable):
    """The agent has ended, so nothing is stored any more."""


class StateInUse(AgentError):
    """Another live agent uses the same state directory."""


class CommandFailed(AgentError):
    """Raised by a command handler: no effect, for the reason in the message."""


class ProviderError(AgentError):
    """The cloud rejected the request or could not be reached."""


class MetadataUnavailable(AgentError):
    """The instance metadata service does not respond, so this is not a cloud instance."""


class StreamSilent(AgentError):
    """The server has not acknowledged a heartbeat for too long; the stream counts as broken."""


class AgentDeleted(AgentError):
    """An operator deleted the agent. It must not register again, which would recreate it."""


class RestUnavailable(AgentError):
    """A REST route did not respond, or failed in a way that a retry may resolve."""


class RestRefused(AgentError):
    """The server rejects a REST call permanently."""

    def __init__(self, text: str, status: int, code: str) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
