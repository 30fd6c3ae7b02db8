"""The architecture: which folder may import which, and what each BUILD says of it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From the ground up. A folder imports from lower floors only; the files that lie in
# the package itself are the ground, and its __init__.py, the roof, is not imported.
FLOORS = (
    ("base",),
    ("genotypes", "data"),
    ("nn",),
    ("training", "official"),
    ("search", "attacks"),
    ("fit", "landscape"),
    ("figures",),
    ("runs",),
    ("launch",),
)
NEVER = {"attacks": {"data"}, "search": {"data"}, "fit": {"data"}}


def _folder(path):
    """The folder of a file of the package or of the launchers; `base` for a file."""
    if path.parent == ROOT / "advrush_tf":
        return "advrush_tf" if path.name == "__init__.py" else "base"
    return path.parent.name


def _module(path):
    dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return dotted.removesuffix(".__init__").removeprefix("tests.")


def _files(pattern):
    return sorted(path for path in ROOT.glob(pattern) if ".venv" not in path.parts)


MODULES = {
    _module(path): path
    for path in _files("advrush_tf/**/*.py") + _files("tests/support/*.py")
}


def imports_of(source):
    """The project's modules that a source imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports must not be relative"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.add(full if full in MODULES else node.module)
    return names & set(MODULES)


def _imported_files(paths):
    sources = [path.read_text("utf-8") for path in paths]
    return {MODULES[name] for source in sources for name in imports_of(source)}


def test_imports_are_found_wherever_they_are():
    source = "import os\nfrom advrush_tf import errors, AutoAttack\n"
    source += "def f():\n    from advrush_tf.nn.kernels import pad_symmetric\n"
    found = {"advrush_tf", "advrush_tf.errors", "advrush_tf.nn.kernels"}
    assert imports_of(source) == found
    with pytest.raises(AssertionError, match="must not be relative"):
        imports_of("from . import cells")


def test_nothing_imports_upwards():
    heights = {name: n for n, names in enumerate(FLOORS) for name in names}
    assert {_folder(path) for path in MODULES.values()} - {"support"} == {
        *heights,
        "advrush_tf",
    } - {"launch"}
    upwards = []
    for path in _files("advrush_tf/*/*.py") + _files("launch/*.py"):
        own = _folder(path)
        for other in {_folder(file) for file in _imported_files([path])} - {own}:
            lower = heights.get(other, len(FLOORS)) < heights[own]
            if not lower or other in NEVER.get(own, ()):
                upwards.append(f"{path.relative_to(ROOT)} imports {other}")
    assert not upwards


def _label(path):
    folder = path.parent.relative_to(ROOT).as_posix()
    return f"//{folder}:base" if _folder(path) == "base" else f"//{folder}"


def _rules(build):
    """Name and literal deps of each Python rule of a BUILD file."""
    for node in ast.walk(ast.parse(build.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id not in ("py_library", "py_binary", "py_test"):
                continue
            values = {keyword.arg: keyword.value for keyword in node.keywords}
            name = values["name"]
            name = name.value if isinstance(name, ast.Constant) else node.func.id
            deps = ast.literal_eval(values["deps"]) if "deps" in values else []
            yield name, deps


def _expected_rules(folder):
    """The files of each Python rule that a folder's BUILD must have."""
    files = sorted(folder.glob("*.py"))
    tests = [path for path in files if path.name.startswith("test_")]
    others = [path for path in files if path not in tests]
    top = folder.relative_to(ROOT).parts[0]
    if folder == ROOT / "advrush_tf":
        single = {path.stem == "__init__": [] for path in files}
        for path in files:
            single[path.stem == "__init__"].append(path)
        return {"base": single[False], "advrush_tf": single[True]}
    if top == "launch":
        return {"py_binary": [path for path in files if path.stem != "console"]}
    if top == "testdata":
        return {"py_binary": files}
    rules = {"py_test": tests} if tests else {}
    if others:
        name = "conftest" if folder == ROOT / "tests" else folder.name
        rules[name] = others
    return rules


FOLDERS = sorted(
    {
        path.parent
        for top in ("advrush_tf", "launch", "testdata", "tests")
        for path in _files(f"{top}/**/*.py")
    }
)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_build_lists_the_folders_that_are_imported(folder):
    rules = dict(_rules(folder / "BUILD"))
    rules.pop("console", None)
    expected = {}
    for name, files in _expected_rules(folder).items():
        labels = {_label(path) for path in _imported_files(files)}
        if name == "py_test":
            labels.add("//tests:conftest")
        if folder.name == "launch" and name == "py_binary":
            labels.add("//launch:console")
        # A library is not its own dependency; the tests beside it depend on it.
        own = f"//{folder.relative_to(ROOT).as_posix()}"
        own = f"{own}:base" if name == "base" else own
        expected[name] = sorted(labels if name == "py_test" else labels - {own})
    assert rules == expected
