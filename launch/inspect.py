"""Shows why an architecture is smooth: python launch/inspect.py --model=model.keras."""

import sys

if __name__ == "inspect":
    # Every launcher's folder is the first in which Python looks for modules, and there
    # this file has the name of one of Python's own: whoever wants that one gets it.
    folder = sys.path.pop(0)
    del sys.modules["inspect"]
    import inspect  # noqa: F401

    sys.path.insert(0, folder)
else:
    from inspect_flags import main

    from advrush_tf.launching import run

    if __name__ == "__main__":
        run(main)
