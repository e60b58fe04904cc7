# SPDX-License-Identifier: Apache-2.0
"""The house style, executed: who imports what, where time, chance and sockets live, and lengths."""

import ast
import functools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from proto.status import Drop

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("proto", "nic_model", "host_driver")
PRODUCT = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
EVERYTHING = sorted({*PRODUCT, *(ROOT / "tests").rglob("*.py"), *(ROOT / "perf").rglob("*.py")})

FILE_LINES, FUNCTION_LINES, COLUMNS = 350, 60, 100

# Shells: the files that may look at a clock, draw real randomness or open a socket, and why.
SHELLS = (
    "proto/clock.py",  # the one clock
    "proto/link/",  # the one room with sockets
    "nic_model/__main__.py",  # process shells
    "host_driver/__main__.py",
    "host_driver/lab/",  # starts processes, waits for them
    "host_driver/demo/",
    "host_driver/cli/",
    "host_driver/conformance/kernel.py",  # speaks to the running Linux
    "host_driver/pytest_plugin.py",
)
# Within the lab, what runs under the virtual clock is no shell.
PURE_IN_LAB = tuple(f"host_driver/lab/{name}.py" for name in ("sim", "simulator", "wire"))

FORBIDDEN_MODULES = {"secrets", "socket", "zmq", "uuid"}
FORBIDDEN_CALLS = re.compile(
    r"time\.(time|monotonic|perf_counter|process_time|sleep|localtime|gmtime)(_ns)?$"
    r"|datetime\.(datetime\.)?(now|today|utcnow)$|date\.today$|os\.(urandom|getrandom)$"
    r"|random\.(?!Random$)\w+$|np\.random\.\w+$|numpy\.random\.\w+$"
)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def is_shell(path: Path) -> bool:
    return name(path).startswith(SHELLS) and name(path) not in PURE_IN_LAB


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), name(path))


@functools.cache
def imports(path: Path) -> list[tuple[int, str]]:
    """Names of all imported modules, deferred imports and TYPE_CHECKING blocks included."""
    found = []
    for child in ast.walk(tree(path)):
        if isinstance(child, ast.Import):
            found += [(child.lineno, alias.name) for alias in child.names]
        elif isinstance(child, ast.ImportFrom):
            found.append((child.lineno, child.module or ""))
    return found


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def public(path: Path) -> Iterator[tuple[int, str, ast.AST]]:
    """Public classes and functions at module level, and public methods of public classes."""
    for node in tree(path).body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
            continue
        yield node.lineno, node.name, node
        if isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
                    yield item.lineno, f"{node.name}.{item.name}", item


def may_import(package: str, path: Path) -> tuple[str, ...]:
    if package == "host_driver" and name(path).startswith("host_driver/lab/"):
        return PACKAGES
    return {"proto": ("proto",), "nic_model": ("proto", "nic_model")}.get(
        package, ("proto", "host_driver")
    )


def test_imports_run_one_way() -> None:
    wrong = [
        f"{name(path)}:{line} imports {module}"
        for path in PRODUCT
        for line, module in imports(path)
        if (top := module.partition(".")[0]) in PACKAGES
        and top not in may_import(path.relative_to(ROOT).parts[0], path)
    ]
    assert wrong == []


def test_imports_are_absolute() -> None:
    wrong = [
        f"{name(path)}:{node.lineno}"
        for path in EVERYTHING
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("numba", ("nic_model/",)),
        ("llvmlite", ("nic_model/",)),
        ("scapy", ()),
        ("zmq", ("proto/link/",)),
        ("hypothesis", ("host_driver/testing/",)),
        ("pytest", ("host_driver/pytest_plugin.py", "host_driver/conformance/")),
        ("cryptography", ("host_driver/",)),
    ],
)
def test_a_library_stays_in_its_room(module: str, allowed: tuple[str, ...]) -> None:
    wrong = [
        f"{name(path)}:{line}"
        for path in PRODUCT
        for line, imported in imports(path)
        if imported.partition(".")[0] == module and not name(path).startswith(allowed or "\0")
    ]
    assert wrong == []


def test_no_clock_chance_or_socket_below_the_shells() -> None:
    wrong = []
    for path in PRODUCT:
        if is_shell(path):
            continue
        for line, module in imports(path):
            if module.partition(".")[0] in FORBIDDEN_MODULES:
                wrong.append(f"{name(path)}:{line} imports {module}")
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and FORBIDDEN_CALLS.match(dotted(node.func)):
                wrong.append(f"{name(path)}:{node.lineno} calls {dotted(node.func)}")
            if isinstance(node, ast.ImportFrom) and node.module in ("time", "random"):
                wrong += [
                    f"{name(path)}:{node.lineno} imports {node.module}.{alias.name}"
                    for alias in node.names
                    if (node.module, alias.name) != ("random", "Random")
                ]
    assert wrong == []


def test_randomness_in_shells_has_a_seed() -> None:
    wrong = [
        f"{name(path)}:{node.lineno} {dotted(node.func)}"
        for path in PRODUCT
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and re.match(r"random\.\w+$", dotted(node.func))
        and (dotted(node.func) != "random.Random" or not node.args)
    ]
    assert wrong == []


def test_files_begin_with_the_licence_and_say_what_they_are() -> None:
    wrong = []
    for path in EVERYTHING:
        text = path.read_text()
        if not text.startswith("# SPDX-License-Identifier: Apache-2.0\n"):
            wrong.append(f"{name(path)} has no SPDX line")
        if not ast.get_docstring(tree(path)):
            wrong.append(f"{name(path)} has no module docstring")
    assert wrong == []


def test_product_files_are_short() -> None:
    lengths = {name(path): len(path.read_text().splitlines()) for path in PRODUCT}
    assert {path: lines for path, lines in lengths.items() if lines > FILE_LINES} == {}


def test_functions_fit_a_screen() -> None:
    wrong = []
    for path in PRODUCT:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    wrong.append(f"{name(path)}:{node.lineno} {node.name} has {lines} lines")
    assert wrong == []


def test_lines_fit_the_page() -> None:
    wrong = [
        f"{name(path)}:{number}"
        for path in EVERYTHING
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(re.sub(r"  # (type: ignore|noqa).*", "", line)) > COLUMNS
    ]
    assert wrong == []


def test_public_objects_have_docstrings() -> None:
    wrong = []
    for path in PRODUCT:
        for line, what, node in public(path):
            assert isinstance(node, ast.ClassDef | ast.FunctionDef)
            one_line = isinstance(node, ast.FunctionDef) and len(node.body) == 1
            if not ast.get_docstring(node) and not one_line and "." not in what:
                wrong.append(f"{name(path)}:{line} {what}")
    assert wrong == []


def test_nothing_is_left_for_later() -> None:
    words = re.compile(r"\b(TO" r"DO|FIX" r"ME|X{3}|HA" r"CK)\b|NotImplemented" r"Error")
    wrong = [
        f"{name(path)}:{number} {line.strip()}"
        for path in EVERYTHING
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if words.search(line)
    ]
    assert wrong == []


def test_help_is_light() -> None:
    """`xfrmnic --help` must not wait for a compiler, a socket library or a packet crafter."""
    heavy = ("numba", "llvmlite", "scapy", "zmq", "numpy", "cryptography")
    code = (
        "import sys\n"
        "from host_driver.cli.app import main\n"
        "sys.argv = ['xfrmnic', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"loaded = [name for name in {heavy!r} if name in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_every_drop_reason_is_documented() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert {reason.name.lower() for reason in Drop if reason} <= table


def test_the_room_list_is_true() -> None:
    """docs/architecture.md names every room, and no room that is not there; and so of the core."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    _, rooms, _, core, *_ = text.partition("## Rooms")[2].split("```")
    core_files = {path.name for path in (ROOT / "host_driver" / "xfrm").glob("[!_]*.py")}
    assert set(re.findall(r"\w+\.py", core)) == core_files
    listed = set(re.findall(r"\w+\.py|\w+/", rooms)) - {f"{package}/" for package in PACKAGES}
    present = {
        path.name + ("/" if path.is_dir() else "")
        for package in PACKAGES
        for path in (ROOT / package).iterdir()
        if path.name not in ("__init__.py", "py.typed", "__pycache__")
    }
    assert listed == present


def test_extras_and_dependency_groups_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    groups = project["dependency-groups"]
    assert {key: extras[key] for key in ("test", "lint", "types")} == {
        key: groups[key] for key in ("test", "lint", "types")
    }
