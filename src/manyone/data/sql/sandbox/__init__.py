"""Running SQL that nobody has vouched for: read-only, guarded, in processes that may be killed.

    with Sandbox() as sandbox:
        outcome = sandbox.execute(Path("concert_singer.sqlite"), "SELECT count(*) FROM singer")

What a statement may do is in :mod:`manyone.data.sql.sandbox.worker`; :class:`Sandbox` keeps such workers warm.
"""

from manyone.data.sql.sandbox.files import fingerprint
from manyone.data.sql.sandbox.limits import Kind, Limits, Outcome, Value
from manyone.data.sql.sandbox.pool import Sandbox

__all__ = ["Kind", "Limits", "Outcome", "Sandbox", "Value", "fingerprint"]
