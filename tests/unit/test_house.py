"""The package can be read from the bottom up: no circle of imports, and none that goes up or sideways.

Computed from the source: imports for type checking and those inside of functions count, too.
"""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import aligner_integrations

ROOT = Path(aligner_integrations.__file__).parent
CONTRIBUTING = ROOT.parent / "CONTRIBUTING.md"

# From the bottom. A room is a module or a folder; it may use the floors below it, and nothing beside it.
FLOORS = [
    ["_version", "errors", "forking"],
    [
        "_lazy",
        "correction",
        "fingerprint",
        "heat",
        "hub",
        "jsonl",
        "own_database",
        "pairs",
        "passages",
        "refusals",
        "structured",
        "templates",
        "thought",
        "threads",
        "turnstile",
        "untrusted",
        "visible",
    ],
    ["backends/request", "backends/score", "models", "telemetry", "triples"],
    ["backends/base", "editable"],
    [
        "backends/deadline",
        "backends/encoding",
        "backends/limit",
        "backends/prefill",
        "backends/semaphore",
        "backends/side_by_side",
        "recording",
        "edits",
        "gate_file",
        "circles",
        "guard",
    ],
    ["backends/local", "backends/remote", "backends/wrappers", "policy", "user_functions"],
    ["backends/prompted", "job"],
    ["asking", "options", "streaming"],
    ["backends", "configured"],  # the front of the former: what is exported
    ["aligner"],
    ["corpus", "doctor", "evaluation", "langchain", "llama_index"],
    ["training"],
    ["bench"],
    ["cli"],
    ["__main__", ""],  # the package's front
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# Names of modules before each was put into the room that its name belongs to.
OLD = [
    "decisions",
    "ahead",
    "slots",
    "batching",
    "resilience",
    "attempts",
    "breaker",
    "cache",
    "store",
    "secret",
    "encoding",
    "backends/clock",
    "backends/stopping",
    "backends/wrapper",
    "backends/ahead",
    "backends/local",
    "backends/weights",
    "backends/ready",
    "backends/decoding",
    "backends/writing",
    "backends/scoring",
    "backends/judging",
    "backends/gate",
    "backends/copy_draft",
    "backends/drafting",
    "backends/rows",
    "backends/growing",
    "backends/prefix",
    "backends/parts",
    "backends/packing",
    "backends/attention",
    "backends/endpoint",
    "backends/connection",
    "backends/parallel",
    "backends/dialect",
    "backends/fitting",
    "backends/reading",
    "backends/echo",
    "backends/text_generation",
    "backends/chat_model",
    "backends/prompted",
    "backends/talkers",
    "backends/chat_endpoint",
    "langchain/hearing",
    "langchain/tracing",
    "langchain/upstream",
    "langchain/runs",
    "langchain/lookup",
    "langchain/agents",
    "langchain/stand_in",
    "langchain/identity",
    "llama_index/correcting",
    "llama_index/accumulated",
    "llama_index/wrapping",
    "evaluation/bench",
    "evaluation/ties",
    "training/embedded",
]


def _modules():
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).with_suffix("").as_posix()
        yield ("" if name == "__init__" else name.removesuffix("/__init__")), path


MODULES = dict(_modules())


def imports_of(path):
    """The modules of this package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, *parts = name.split(".")
            if top == "aligner_integrations":
                whole, parent = "/".join(parts), "/".join(parts[:-1])
                yield whole if whole in MODULES else parent


IMPORTS = {name: set(imports_of(path)) - {name} for name, path in MODULES.items()}


def room_of(module):
    """The longest listed name that a module is, or is in; a folder's front may be a room of its own."""
    parts = module.split("/")
    if module in FLOOR_OF:
        return module
    if parts[0] == "backends":
        return "/".join(parts[:2])
    return parts[0]


def test_there_is_no_circle():
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_each_room_is_on_a_floor():
    assert {room_of(module) for module in MODULES} == set(FLOOR_OF)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    room = room_of(module)
    wrong = {
        other for other in IMPORTS[module] if room_of(other) != room and FLOOR_OF[room_of(other)] >= FLOOR_OF[room]
    }
    assert not wrong


def test_here_and_on_a_server_are_two_wings():
    for one, other in (("local", "remote"), ("remote", "local")):
        wing = {name: IMPORTS[name] for name in MODULES if name.startswith(f"backends/{one}")}
        assert not [name for name, used in wing.items() if any(u.startswith(f"backends/{other}") for u in used)]


def test_no_module_has_its_old_name():
    assert not [name for name in OLD if (ROOT / f"{name}.py").exists()]


def test_the_way_to_a_change_leads_somewhere():
    """Each place that CONTRIBUTING sends people to is there."""
    table = CONTRIBUTING.read_text().partition("| you want to |")[2].partition("\n\n")[0]
    rows = [row.split("|")[1:-1] for row in table.splitlines()[2:]]
    assert len(rows) > 10 and all(len(row) == 2 for row in rows)
    for want, go in rows:
        places = re.findall(r"`([\w/]+(?:/|\.\w+))`", go)
        assert places, want
        missing = [p for p in places if not (ROOT / p).exists() and not (ROOT.parent / p).exists()]
        assert not missing, want
