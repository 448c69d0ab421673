"""How the corpus's files are found, split, and cleaned of tables and copies."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ntlib.tasks import sources
from ntlib.tasks.sources import SourceFile, functions_of, is_table, split_of, without_copies

FUNCTION = b"def long_enough(values):\n" + b"".join(
    b"    values = [value + %d for value in values]\n" % i for i in range(6)
)


def lines(prefix, count):
    return b"".join(b"%s_statement_%d = compute(%d)\n" % (prefix, i, i) for i in range(count))


def test_split_is_a_fixed_function_of_the_path():
    assert split_of("sympy/core/expr.py") == "train"
    shares = [split_of(f"package/module_{i}.py") for i in range(4000)]
    assert shares.count("train") / 4000 == pytest.approx(0.9, abs=0.02)
    assert shares.count("test") / 4000 == pytest.approx(0.05, abs=0.015)


def test_tables_are_recognised():
    assert is_table(b"")
    assert is_table(b"NAMES = [\n" + b"    'alpha', 'beta',\n" * 20 + b"]\n")
    assert is_table(b"x = 1\ny = '" + b"z" * 2500 + b"'\n")
    assert not is_table(FUNCTION)


def test_near_duplicates_are_dropped_and_training_has_precedence():
    original = SourceFile("b.py", "train", lines(b"original", 10))
    copy = SourceFile("a.py", "test", lines(b"original", 10) + lines(b"other", 4))
    other = SourceFile("c.py", "test", lines(b"original", 4) + lines(b"another", 10))
    assert without_copies([copy, other, original]) == [original, other]


def test_an_evaluation_file_with_a_known_function_is_dropped():
    train = SourceFile("a.py", "train", lines(b"a", 30) + FUNCTION)
    indented = b"class C:\n" + b"".join(b"    " + line for line in FUNCTION.splitlines(True))
    leaking = SourceFile("b.py", "validation", lines(b"b", 30) + indented)
    clean = SourceFile("c.py", "validation", lines(b"c", 30))
    again = SourceFile("d.py", "train", lines(b"d", 30) + FUNCTION)
    kept = without_copies([leaking, clean, train, again])
    assert [file.path for file in kept] == ["a.py", "d.py", "c.py"]


def test_functions_are_found_by_indentation():
    inner = b"\n".join(b"    " + line for line in FUNCTION.splitlines())
    text = b"x = 1\ndef outer():\n" + inner + b"\n    return 1\n\n\n" + b"def short(): pass\n"
    found = list(functions_of(text))
    assert len(found) == 2
    assert found[0] == b"\n".join(line.strip() for line in FUNCTION.splitlines())
    assert found[1].startswith(b"def outer():")
    assert found[1].endswith(b"return 1")


def test_a_signature_over_several_lines_is_one_function():
    text = b"def f(\n    a,\n    b,\n):\n" + b"    a = a + b  # sum\n" * 12 + b"y = 2\n"
    (found,) = functions_of(text)
    assert found.startswith(b"def f(\na,")
    assert found.endswith(b"# sum")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sources.PACKAGES, "no-such-package", "1.0")
    with pytest.raises(ValueError, match=r"'no-such-package' \(version 1.0\).*requirements.txt"):
        sources.installed_versions()


def test_differing_versions_are_named():
    versions = dict(sources.PACKAGES)
    sources.check_versions(versions)
    versions["sympy"] = "1.0"
    with pytest.raises(ValueError, match=r"sympy 1.0 instead of"):
        sources.check_versions(versions)


def test_versions_are_those_of_the_requirements():
    pins = {}
    for line in (Path(sources.__file__).parents[2] / "requirements.txt").read_text().splitlines():
        stated = line.split("#")[0].strip()
        if "==" in stated:
            requirement = Requirement(stated)
            name = canonicalize_name(requirement.name)
            pins[name] = str(requirement.specifier).removeprefix("==")
    packages = {canonicalize_name(name): version for name, version in sources.PACKAGES.items()}
    assert {name: pins.get(name) for name in packages} == packages
