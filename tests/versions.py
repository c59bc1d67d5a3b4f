"""The constraints that `make test-oldest` and `make test-newest` install with, made of pyproject.toml and constraints.txt.

    python tests/versions.py oldest     # the core's and the frameworks' ranges at their lower end, all else as pinned
    python tests/versions.py newest     # nothing but torch and transformers, which keep their pins in both

Needs nothing but the standard library, for it runs in an environment in which nothing is installed yet.
"""

import re
import sys
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
KEPT = ("torch", "transformers")  # gigabytes, and not what these runs are about
FRAMEWORKS = ("agents", "langchain", "llama-index")  # the extras that these runs are about


def name_of(requirement):
    """The name that a requirement or a pin begins with, written as in the index."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def pins():
    """Name -> line of constraints.txt."""
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {name_of(line): line for line in lines if line and not line.startswith("#")}


def floors():
    """Name -> `name==version` for the lower end of each range of the core and of the frameworks."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for extra in FRAMEWORKS for line in extras[extra])]
    found = {name_of(line): re.search(r">=([\w.]+)", line) for line in wanted}
    return {name: f"{name}=={floor[1]}" for name, floor in found.items() if floor}


def constraints(which):
    """The lines of a constraints file: for "oldest", "newest", or "pinned" as constraints.txt has them."""
    if which == "newest":
        return [pins()[name] for name in KEPT]
    return list({**pins(), **(floors() if which == "oldest" else {})}.values())


if __name__ == "__main__":
    sys.stdout.write("\n".join(constraints(sys.argv[1])) + "\n")
