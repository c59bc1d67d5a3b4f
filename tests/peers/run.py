"""Runs the tests of LangChain's agents and of LangGraph's prebuilt ones: as they are, and with an aligner around each agent.

    python tests/peers/run.py FOLDER     # downloads the tests of the installed versions into the folder, once

The aligner changes nothing, so nothing may end otherwise than without it, but for what `differences.toml` lists with its
reason. A difference that is not listed is an error, and so is one that is listed and gone. What goes around an agent lives in
`peers_plugin.py`, and what providers make of corrected messages in `providers.py`.
"""

import json
import os
import subprocess
import sys
import tarfile
import tomllib
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
SUITES = {  # a package -> its tests, and what goes around the agents in them
    "langchain": ("tests/unit_tests/agents", ["middleware", "model"]),
    "langgraph-prebuilt": ("tests", ["model"]),
}


def say(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def sources(package, folder):
    """Where the source distribution of the installed version lies, unpacked; wheels have no tests."""
    name = f"{package}=={version(package)}"
    unpacked = folder / f"{package.replace('-', '_')}-{version(package)}"
    if not unpacked.is_dir():
        # Only this package as a source distribution: what builds it may come as a wheel.
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            package,
            "--dest",
            folder,
        ]
        subprocess.run([*pip, name], check=True)
        with tarfile.open(f"{unpacked}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    return unpacked


def outcomes(place, tests, around, file):
    """A test's id -> how it ended."""
    environment = {**os.environ, "PEERS_AROUND": around, "PEERS_OUTCOMES": str(file), "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-m", "pytest", "-p", "peers_plugin", "-p", "no:cacheprovider", "-q", "--tb=no", *tests]
    file.unlink(missing_ok=True)
    log = file.with_suffix(".log")
    with log.open("wb") as output:
        subprocess.run(command, cwd=place, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False)
    if not file.exists():
        sys.exit(f"The tests in {place} did not run; what pytest said is in {log}.")
    return json.loads(file.read_text(encoding="utf-8"))


def difference(one, other):
    return {test for test in one.keys() | other.keys() if one.get(test) != other.get(test)}


def compared(package, folder, listed):
    """Whether the package's tests end as they should."""
    tests, ways = SUITES[package]
    place = sources(package, folder)
    plain = outcomes(place, [tests], "plain", folder / f"{package}-plain.json")
    failing = sum(outcome == "failed" for outcome in plain.values())
    say(f"{package} {version(package)}: {len(plain)} tests, {failing} of which fail without an aligner")
    good = bool(plain)
    for around in ways:
        found = difference(plain, outcomes(place, [tests], around, folder / f"{package}-{around}.json"))
        if unsure := found - set(listed.get(around, {})):  # perhaps they end otherwise each time
            again = [
                outcomes(place, sorted(unsure), way, folder / f"{package}-again.json") for way in ("plain", around)
            ]
            found -= unsure - difference(*again)
        unlisted, gone = found - set(listed.get(around, {})), set(listed.get(around, {})) - found
        say(f"  with an aligner by {around}: {len(found)} end otherwise, {len(unlisted)} of which are not listed")
        for test in sorted(unlisted):
            say(f"    not listed: {test}")
        for test in sorted(gone):
            say(f"    listed, but ends as without: {test}")
        good = good and not unlisted and not gone
    return good


def main():
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    listed = tomllib.loads((HERE / "differences.toml").read_text(encoding="utf-8"))
    results = [compared(package, folder, listed.get(package, {})) for package in SUITES]
    sys.exit(0 if all(results) else f"Look at the differences: mend them, or list them in {HERE / 'differences.toml'}.")


if __name__ == "__main__":
    main()
