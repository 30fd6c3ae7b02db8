import ast
import importlib.metadata
import re
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
RUNNER = "tests/pytest_main.py"
RULES = ("py_library", "py_binary", "py_test")


class Target(NamedTuple):
    """What BUILD says about one Python target."""

    rule: str
    srcs: list[str]
    deps: list[str]
    main: str | None
    args: list[str]


def _keywords(call: ast.Call) -> dict[str, ast.expr]:
    return {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}


def _calls(text: str) -> list[tuple[str, dict[str, ast.expr]]]:
    """All calls of plain functions: a BUILD file is Python as far as this goes."""
    return [
        (node.func.id, _keywords(node))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]


def _targets() -> list[tuple[str, Target]]:
    found = []
    for rule, keywords in _calls((ROOT / "BUILD").read_text("utf-8")):
        if rule in RULES:
            known = {
                name: ast.literal_eval(keywords[name]) if name in keywords else default
                for name, default in {
                    "srcs": [],
                    "deps": [],
                    "main": None,
                    "args": [],
                }.items()
            }
            found.append((ast.literal_eval(keywords["name"]), Target(rule, **known)))
    return found


def _files() -> list[str]:
    """All Python files of the project, except for setup.py, which Bazel replaces."""
    folders = ("advrush_tf", "launch", "testdata", "tests")
    paths = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


def _expected_target(file: str) -> tuple[str, str]:
    """The name and the rule that a file's target has to have."""
    folder, stem = Path(file).parts[0], Path(file).stem
    if stem == "__init__":
        return Path(file).parts[-2], "py_library"
    if folder == "tests":
        return stem, "py_test" if stem.startswith("test_") else "py_library"
    if _is_part_of_a_launcher(file):
        return stem, "py_library"
    if folder == "launch":
        return f"launch_{stem}", "py_binary"
    return stem, "py_binary" if folder == "testdata" else "py_library"


def _is_part_of_a_launcher(file: str) -> bool:
    return file.startswith("launch/") and file.endswith("_flags.py")


def _modules() -> dict[str, str]:
    """Maps the name under which each file can be imported to its target."""
    modules = {}
    for file in _files():
        name = ".".join(Path(file).with_suffix("").parts)
        name = name.removesuffix(".__init__").removeprefix("tests.")
        if _is_part_of_a_launcher(file):
            name = name.removeprefix("launch.")
        modules[name] = _expected_target(file)[0]
    return modules


def _imports(text: str, modules: set[str] | dict[str, str]) -> set[str]:
    """Names of all modules that a source imports, anywhere in it.

    `from package import name` means the module `package.name` where there is one in
    `modules`, and else the package.
    """
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports must not be relative"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.add(full if full in modules else node.module)
    return names


def _imported_targets(file: str, modules: dict[str, str]) -> set[str]:
    imported = _imports((ROOT / file).read_text("utf-8"), modules)
    return {f":{modules[name]}" for name in imported if name in modules}


def _setup() -> dict[str, ast.expr]:
    return dict(_calls((ROOT / "setup.py").read_text("utf-8")))["setup"]


def _declared() -> list[Requirement]:
    return [
        Requirement(text) for text in ast.literal_eval(_setup()["install_requires"])
    ]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_imports_are_found_wherever_they_are():
    source = """
import a.b
from package import module, name
from other.deep import thing
def f():
    import lazy as l
    if True:
        from package.second import x
"""
    modules = {"package", "package.module", "package.second", "lazy"}
    found = _imports(source, modules)
    assert found == {
        *("a.b", "package", "package.module", "other.deep", "lazy", "package.second")
    }


def test_relative_imports_are_refused():
    with pytest.raises(AssertionError, match="must not be relative"):
        _imports("from . import cells", set())


def test_every_file_has_one_target():
    targets = _targets()
    expected = {file: _expected_target(file) for file in _files()}
    assert len(set(expected.values())) == len(expected), "two files, one target name"
    actual = {
        source: (name, target.rule)
        for name, target in targets
        for source in target.srcs
        if target.rule != "py_test" or source != RUNNER
    }
    assert actual == expected
    names = Counter(name for name, _ in targets)
    assert [name for name, count in names.items() if count > 1] == []
    for name, target in targets:
        extra = [RUNNER] if target.rule == "py_test" else []
        assert len(target.srcs) == 1 + len(extra), name


def test_every_test_is_run_by_pytest():
    for name, target in _targets():
        if target.rule == "py_test":
            assert target.srcs == [f"tests/{name}.py", RUNNER]
            assert target.main == RUNNER
            assert target.args == [f"tests/{name}.py"]
        elif target.rule == "py_binary":
            assert target.main == target.srcs[0]


def test_dependencies_are_the_first_party_imports():
    modules, wrong = _modules(), []
    for name, target in _targets():
        assert target.deps == sorted(set(target.deps)), f"{name}: unsorted or repeated"
        needed = set()
        for file in target.srcs:
            needed |= _imported_targets(file, modules)
        missing, extra = needed - set(target.deps), set(target.deps) - needed
        if missing or extra:
            wrong.append(f"{name}: missing {sorted(missing)}, extra {sorted(extra)}")
    assert not wrong, "deps in BUILD are not the imports:\n" + "\n".join(wrong)


def test_setup_declares_what_is_imported():
    providers = importlib.metadata.packages_distributions()
    modules, needed = _modules(), {"importlib-resources"}  # for tensorflow-datasets
    for file in _files():
        if file.startswith(("advrush_tf/", "launch/")):
            imported = _imports((ROOT / file).read_text("utf-8"), modules)
            tops = {name.partition(".")[0] for name in imported}
            ours = {name.partition(".")[0] for name in modules}
            for top in tops - set(sys.stdlib_module_names) - ours:
                needed.add(_normal(providers[top][0]))
    assert {_normal(requirement.name) for requirement in _declared()} == needed


def test_constraints_pin_all_requirements_within_their_ranges():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pins = {_normal(name): version for name, version in pins.items()}
    extras = ast.literal_eval(_setup()["extras_require"])
    for requirement in [*_declared(), *map(Requirement, extras["dev"])]:
        assert requirement.specifier.contains(pins[_normal(requirement.name)])
