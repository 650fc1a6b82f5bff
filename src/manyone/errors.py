"""The one exception that users are meant to see.

``ManyoneError`` carries a single line that names the wrong value and the fix. The command line prints it without a
traceback and leaves with code 2; in Python it is an ordinary exception.
"""

LONGEST = 2000
"""Characters of a message."""


class ManyoneError(Exception):
    """A problem that the user can mend; its message is one line: what is wrong, where, and what to do.

    A message that quotes a value of any length keeps its beginning and its end.
    """

    def __init__(self, message: object = "") -> None:
        text = " ".join(str(message).split("\n"))
        super().__init__(text if len(text) <= LONGEST else f"{text[: LONGEST - 600]} [...] {text[-500:]}")


class InterruptedRun(ManyoneError):
    """A run that was stopped by a signal after its state had been saved; ``exit_code`` is 128 + signal number."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
