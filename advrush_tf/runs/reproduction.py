"""The command that runs something again, from the settings that it recorded."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from advrush_tf.runs.attack_settings import AttackSettings
from advrush_tf.runs.landscape_settings import LandscapeSettings
from advrush_tf.runs.recipes import fit_settings
from advrush_tf.runs.search_settings import SearchSettings

# What a run finds out by itself, and flags that are given once for each value.
_FOUND, _REPEATED = ("sha256",), {"landscape": "model"}


def command(launcher: str, settings: Mapping[str, Any], workdir: Path) -> str:
    """The command line that runs a launcher with these settings.

    Args:
        launcher: "search", "fit", "attack" or "landscape".
        settings: as `Settings.to_dict` gives them.
        workdir: of the run.

    Returns:
        The command for a POSIX shell, a line a flag; flags that have their default are
        left out.

    Raises:
        UserError: settings of a fit name an unknown objective or network.
        LookupError: they lack one.
    """
    defaults = _defaults(launcher, settings)
    words = ["python", f"launch/{launcher}.py"]
    for name, value in {**settings, "workdir": str(workdir)}.items():
        if name not in _FOUND and value not in (None, defaults.get(name)):
            repeated = name == _REPEATED.get(launcher)
            values = value if repeated else [_text(value)]
            words += [f"--{name}={one}" for one in values]
    quoted = [shlex.quote(word) for word in words]
    return " \\\n    ".join([" ".join(quoted[:2]), *quoted[2:]])


def _defaults(launcher: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    if launcher == "fit":
        return _fit_defaults(settings)
    plain: dict[str, Any] = {
        "search": SearchSettings(),
        "attack": AttackSettings(model="-"),
        "landscape": LandscapeSettings(model=("-",)),
    }
    return plain[launcher].to_dict()


def _fit_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of the fit's recipe, whose steps keep their share of the fit's epsilon."""
    chosen = {name: settings[name] for name in ("objective", "network")}
    recipe = fit_settings(**chosen)
    scaled = fit_settings(**chosen, epsilon=settings["epsilon"]).to_dict()
    usual = fit_settings().to_dict()
    return scaled | {name: usual[name] for name in chosen} | {"epsilon": recipe.epsilon}


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
