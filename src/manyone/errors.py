"""The one exception that users are meant to see.

``ManyoneError`` carries a single line that names the wrong value and the fix. The command line prints it without a
traceback and leaves with code 2; in Python it is an ordinary exception.
"""


class ManyoneError(Exception):
    """A problem that the user can mend; its message is one line: what is wrong, where, and what to do."""


class InterruptedRun(ManyoneError):
    """A run that was stopped by a signal after its state had been saved; ``exit_code`` is 128 + signal number."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
