import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_onednn_is_on_unless_the_user_says_otherwise(given, expected):
    environment = {k: v for k, v in os.environ.items() if "ONEDNN" not in k}
    if given is not None:
        environment["TF_ENABLE_ONEDNN_OPTS"] = given
    program = (
        "import os, sys, importlib.abc\n"
        "class Watch(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'tensorflow':\n"
        "            print('seen', os.environ.get('TF_ENABLE_ONEDNN_OPTS'))\n"
        "            sys.exit()\n"
        "sys.meta_path.insert(0, Watch())\n"
        "import advrush_tf\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.stdout.split() == ["seen", expected]
