"""What can go wrong in an agent, as its own exceptions."""


class AgentError(Exception):
    """Base of everything the SDK raises on purpose."""


class SessionReplaced(AgentError):
    """Another process holds this instance's session, so this one must not go on."""


class SpoolFull(AgentError):
    """The spool holds as much as it may, and nothing in it may make room for this report."""


class StateUnavailable(AgentError):
    """The state directory cannot be read or written; the cause says why."""


class StateClosed(StateUnavailable):
    """The agent has ended, so nothing is stored any more."""


class StateInUse(AgentError):
    """Another live agent uses the same state directory."""


class CommandFailed(AgentError):
    """Raised by a command handler: the command did not take effect, and the message says why."""


class ProviderError(AgentError):
    """The cloud refused or could not be reached."""


class MetadataUnavailable(AgentError):
    """The instance metadata service does not answer, so this is not a cloud instance."""


class StreamSilent(AgentError):
    """The plane has not acknowledged a heartbeat for too long; the stream counts as broken."""


class AgentDeleted(AgentError):
    """An operator deleted the agent. Registering again would bring it back, so that is not done."""


class RestUnavailable(AgentError):
    """A REST route gave no answer, or one that may be another later."""


class RestRefused(AgentError):
    """The plane refuses a REST call for good."""

    def __init__(self, text: str, status: int, code: str) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
