"""Shows why an architecture is smooth: python launch/inspect.py --model=model.keras."""

import os
import sys

if __name__ == "inspect":
    # Every launcher's folder is the first in which Python looks for modules, and there
    # this file has the name of one of Python's own: whoever wants that one gets it.
    folders, here = list(sys.path), os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [folder for folder in folders if os.path.abspath(folder) != here]
    del sys.modules["inspect"]
    import inspect  # noqa: F401

    sys.path[:] = folders
else:
    from inspect_flags import main

    from advrush_tf.launching import run

    if __name__ == "__main__":
        run(main)
