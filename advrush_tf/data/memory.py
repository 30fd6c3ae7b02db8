"""Whether something fits in memory."""

import psutil

from advrush_tf.errors import UserError

_SHARE = 0.75


def require_memory(what: str, needed: int) -> None:
    """Makes sure that something fits in three quarters of the free memory.

    Args:
        what: What needs memory, for the message.
        needed: Bytes.

    Raises:
        UserError: If it does not fit.
    """
    limit = _SHARE * psutil.virtual_memory().available
    if needed > limit:
        raise UserError(
            f"{what} needs {needed / 1e9:.1f} GB; the limit is {limit / 1e9:.1f} GB, "
            f"{_SHARE:.0%} of the free memory: free some or use fewer images."
        )
