from types import SimpleNamespace

import psutil
import pytest

from advrush_tf.data.memory import require_memory
from advrush_tf.errors import UserError


def test_three_quarters_of_the_free_memory_may_be_needed(monkeypatch):
    free = SimpleNamespace(available=4_000_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    require_memory("A shoe", 3_000_000_000)
    with pytest.raises(UserError, match=r"A shoe needs 3.0 GB; the limit is 3.0 GB"):
        require_memory("A shoe", 3_000_000_001)
