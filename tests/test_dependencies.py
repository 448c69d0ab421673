"""Which files code depends on: with enclosing packages for chapters, without them for runs."""

from ntlib import dependencies

MODULES = {
    "__init__.py": "",
    "tasks/__init__.py": "from ntlib.tasks.one import A\nfrom ntlib.tasks.two import B\n",
    "tasks/one.py": "from ntlib.base import C\n",
    "tasks/two.py": "",
    "base.py": "import torch\n",
    "gathered.py": "from ntlib.tasks import A\n",
}


def checkout(root):
    for name, text in MODULES.items():
        path = root / "ntlib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def named(found):
    return {name.removeprefix("ntlib/") for name in found}


def test_imports_are_followed_without_enclosing_packages(tmp_path):
    root = checkout(tmp_path)
    assert named(dependencies.of_modules(["ntlib.tasks.one"], root)) == {"tasks/one.py", "base.py"}
    assert dependencies.of_modules(["torch.nn"], root) == {}


def test_a_name_that_a_package_gathers_needs_the_package(tmp_path):
    found = dependencies.of_modules(["ntlib.gathered"], checkout(tmp_path))
    assert named(found) == set(MODULES) - {"__init__.py"}


def test_code_depends_on_enclosing_packages(tmp_path):
    found = dependencies.of_code(["from ntlib.tasks.one import A"], checkout(tmp_path))
    assert named(found) == set(MODULES) - {"gathered.py"}


def test_the_package_changes_with_any_module_and_not_with_line_ends(tmp_path):
    one, two, three = (checkout(tmp_path / name) for name in ("one", "two", "three"))
    (two / "ntlib" / "base.py").write_bytes(b"import torch\r\n")
    (three / "ntlib" / "base.py").write_text("import torch  # changed\n")
    digests = [dependencies.of_package(root) for root in (one, two, three)]
    assert digests[0] == digests[1] != digests[2]


def test_changes_are_named():
    lines = dependencies.changes({"a": "1", "b": "1", "c": "1"}, {"a": "1", "b": "2", "d": "1"})
    assert lines == ["b changed", "d is newly used", "c is no longer used"]
