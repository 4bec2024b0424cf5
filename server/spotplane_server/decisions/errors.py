"""What can go wrong with decisions and engines."""

from __future__ import annotations

from spotplane_server.kernel.errors import Forbidden, Invalid, NotFound, Precondition


class AutoSwitchDisabled(Forbidden):
    """Automatic switching is off, so nothing is ordered in its name."""

    reason = "AUTO_SWITCH_DISABLED"

    def __init__(self) -> None:
        super().__init__(
            "automatic switching is disabled for this agent",
            suggestion="enable auto_switch_enabled, or force the switch of its instance",
            auto_switch_enabled="false",
        )


class SwitchLimitReached(Precondition):
    """The agent has switched as often as its configuration allows."""

    reason = "SWITCH_LIMIT_REACHED"


class DwellNotReached(Precondition):
    """The instance has not served as long as the configuration asks."""

    reason = "DWELL_NOT_REACHED"


class UnsupportedFormat(Invalid):
    """An upload of a format that is not taken."""

    reason = "UNSUPPORTED_MODEL_FORMAT"


class MalformedModel(Invalid):
    """An upload of a format that is taken, but that cannot be used."""

    reason = "MODEL_INVALID"


class ShadowFailed(Precondition):
    """A session did not stand its evaluation in shadow."""

    reason = "SHADOW_FAILED"


class SessionNotFound(NotFound):
    """No such session."""

    reason = "SESSION_NOT_FOUND"

    def __init__(self, message: str = "no such session") -> None:
        super().__init__(message)
