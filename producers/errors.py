"""Everything Spamtide raises on purpose.

SpamtideError
├── InvalidInput          a fault of the input: it goes to the dead-letter queue (or is counted) and the work goes on
└── SystemFault           a fault of the system: the worker stops with a sentence that says what to do
    ├── UsageError        settings or arguments that cannot be used                          exit status 2
    ├── Unavailable       the broker, a topic or a file cannot be reached                    exit status 3
    ├── Fenced            another worker took this one's transactional id                    exit status 4
    ├── UnknownOutcome    a commit whose end was not learned; a restart finishes it          exit status 5
    └── AuditFailure      offsets, ranges or state do not fit together: never count on       exit status 6
"""

from typing import ClassVar


class SpamtideError(Exception):
    """The root of the tree."""


class InvalidInput(SpamtideError):
    """One record or line that cannot be used. `reason` is a metric label and a header: it never quotes the input."""

    def __init__(self, reason: str, line: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line


class SystemFault(SpamtideError):
    """Stops the worker. The text is one line: the cause, and the way out."""

    exit_status: ClassVar[int] = 1


class UsageError(SystemFault):
    """A setting or argument is missing or out of bounds."""

    exit_status = 2


class Unavailable(SystemFault):
    """Something this worker needs does not answer."""

    exit_status = 3


class Fenced(SystemFault):
    """A younger producer with the same transactional id exists."""

    exit_status = 4


class UnknownOutcome(SystemFault):
    """The end of a transaction timed out: only a new producer with the same id learns how it ended."""

    exit_status = 5


class AuditFailure(SystemFault):
    """The standing audit of exactly-once found a gap, an overlap or a state that does not fit its offsets."""

    exit_status = 6
