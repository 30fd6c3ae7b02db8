import ast
import importlib.metadata
import re
import sys
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
OURS = {"advrush_tf", "launch"}
# A module beside the launchers.
LOCAL = {*OURS, "console"}


def _setup() -> dict[str, ast.expr]:
    calls = ast.walk(ast.parse((ROOT / "setup.py").read_text("utf-8")))
    call = next(
        node
        for node in calls
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    )
    return {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}


def _extras() -> dict[str, list[str]]:
    return ast.literal_eval(_setup()["extras_require"])


def _declared() -> list[Requirement]:
    """The requirements of the package, with those of the extras for its users."""
    texts = ast.literal_eval(_setup()["install_requires"])
    for name in _extras().keys() - {"dev"}:
        texts += _extras()[name]
    return [Requirement(text) for text in texts]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _imported_packages(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def test_setup_declares_what_is_imported():
    providers = importlib.metadata.packages_distributions()
    # For tensorflow-datasets, and for Keras' plot_model.
    needed = {"importlib-resources", "pydot"}
    for folder in OURS:
        for path in (ROOT / folder).rglob("*.py"):
            for top in _imported_packages(path) - set(sys.stdlib_module_names) - LOCAL:
                needed.add(_normal(providers[top][0]))
    assert {_normal(requirement.name) for requirement in _declared()} == needed


def test_constraints_pin_all_requirements_within_their_ranges():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pins = {_normal(name): version for name, version in pins.items()}
    for requirement in [*_declared(), *map(Requirement, _extras()["dev"])]:
        assert requirement.specifier.contains(pins[_normal(requirement.name)])
