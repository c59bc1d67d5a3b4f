"""Records as lines: rotation, half lines of killed processes, full disks, and who may read them."""

import gzip
import os
import resource
import shutil
import stat
import subprocess
import sys
import time

import pytest

from aligner_integrations.correction import Correction
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.recording import Recorder, read_records
from aligner_integrations.recording.records import rotated


def correction(n=0, text="b" * 100):
    return Correction(f"q{n}", "a" * 100, text, "corrected")


def record(path, numbers, **options):
    recorder = Recorder(path, **options)
    for n in numbers:
        recorder(correction(n))
        recorder.flush()
    recorder.close()


def questions(path, **options):
    return [one.correction.question for one in read_records(path, **options)]


def test_a_file_is_rotated_by_size_and_read_as_one(tmp_path):
    path = tmp_path / "c.jsonl"
    record(path, range(60), max_bytes=3000)
    files = rotated(path)
    assert len(files) > 5 and all(file.stat().st_size <= 3000 for file in (*files, path))
    assert questions(path) == [f"q{n}" for n in range(60)]
    with gzip.open(f"{files[0]}.gz", "wb") as packed, files[0].open("rb") as plain:
        shutil.copyfileobj(plain, packed)
    files[0].unlink()
    assert questions(path) == [f"q{n}" for n in range(60)]


def test_a_record_larger_than_a_file_may_be_has_one_of_its_own(tmp_path):
    path = tmp_path / "c.jsonl"
    recorder = Recorder(path, max_bytes=2000)
    for n in range(3):
        recorder(correction(n, "b" * 5000))
        recorder.flush()
    assert questions(path) == ["q0", "q1", "q2"] and len(rotated(path)) == 2


def test_a_file_is_rotated_by_day(tmp_path):
    path = tmp_path / "folder"
    record(path, [1], daily=True)
    record(path, [2], daily=True)
    assert not rotated(path / "corrections.jsonl")
    yesterday = time.time() - 86_400
    os.utime(path / "corrections.jsonl", (yesterday, yesterday))
    record(path, [3], daily=True)
    assert len(rotated(path / "corrections.jsonl")) == 1
    assert questions(path) == ["q1", "q2", "q3"]


@pytest.mark.parametrize("half", [b'{"id": "1", "ti', b"x" * 200_000])
def test_half_a_line_of_a_killed_process_is_cut_off(tmp_path, half):
    path = tmp_path / "c.jsonl"
    record(path, [1])
    with path.open("ab") as file:
        file.write(half)
    assert questions(path) == ["q1"]
    record(path, [2])
    assert questions(path) == ["q1", "q2"] and half not in path.read_bytes()


def test_a_line_whose_end_an_editor_took_is_kept(tmp_path):
    path = tmp_path / "c.jsonl"
    record(path, [1])
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert questions(path) == ["q1"]
    record(path, [2])
    assert questions(path) == ["q1", "q2"]


def test_damaged_lines_are_told_by_their_place(tmp_path):
    path = tmp_path / "c.jsonl"
    record(path, [1, 2, 3])
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], b"\xff\x00 no record", b"[1]", b"{}", lines[2], b""]))
    with pytest.raises(ConfigurationError, match="line 2"):
        questions(path)
    places = []
    assert questions(path, on_damaged=places.append) == ["q1", "q3"]
    assert [place.rpartition(" ")[2] for place in places] == ["2", "3", "4"]


def test_a_full_disk_loses_whole_records_and_says_so(tmp_path):
    """Half a batch is never left behind, and once there is room again it goes on."""
    path = tmp_path / "c.jsonl"
    code = f"""
import resource, signal
from tests.unit.recording.test_lines import correction, Recorder
from aligner_integrations.errors import RecordingError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
recorder = Recorder({str(path)!r})
recorder(correction(1)); recorder.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (700, resource.RLIM_INFINITY))
recorder(correction(2)); recorder(correction(3))
try:
    recorder.flush()
except RecordingError as error:
    assert "2, the disk refused: File too large" in str(error), error
else:
    raise SystemExit("no error")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
recorder(correction(4)); recorder.flush()
assert (recorder.written, recorder.dropped) == (2, 2)
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("were not recorded") == 1 and "aaa" not in done.stderr
    assert questions(path) == ["q1", "q4"]


@pytest.mark.parametrize("place", ["c.jsonl", "new/folder", "c.db"])
def test_only_the_owner_can_read_them(tmp_path, place):
    before = os.umask(0)
    try:
        record(tmp_path / place, range(20), **({} if place.endswith("db") else {"max_bytes": 2000}))
    finally:
        os.umask(before)
    found = [path for path in tmp_path.rglob("*") if path.name != "new"]
    assert found and not [path for path in found if path.stat().st_mode & 0o077]


@pytest.mark.parametrize("place", ["c.jsonl", "c.db"])
def test_a_file_that_others_could_read_is_closed_to_them(tmp_path, place):
    record(tmp_path / place, [1])
    (tmp_path / place).chmod(0o644)
    record(tmp_path / place, [2])
    assert stat.S_IMODE((tmp_path / place).stat().st_mode) == 0o600


@pytest.mark.parametrize("place", ["c.jsonl", "c.db"])
def test_nothing_is_written_through_a_link_or_into_a_pipe(tmp_path, place):
    (tmp_path / "elsewhere").touch()
    (tmp_path / place).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="link|plain file"):
        Recorder(tmp_path / place)
    (tmp_path / place).unlink()
    os.mkfifo(tmp_path / place)
    with pytest.raises(ConfigurationError, match="pipe|plain file"):
        Recorder(tmp_path / place)


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be recorded to"):
        Recorder(tmp_path / "file" / "c.jsonl")


def test_what_is_no_text_is_recorded_all_the_same(tmp_path):
    path = tmp_path / "c.jsonl"
    recorder = Recorder(path)
    one = Correction("q\ud800", "a\n\r\u2028\x00", "日本", "failed", "InvalidTextError: no")
    recorder(one)
    recorder.flush()
    assert [record.correction for record in read_records(path)] == [one]
    assert path.read_bytes().count(b"\n") == 1


def test_nothing_is_there(tmp_path):
    with pytest.raises(ConfigurationError, match="no records at"):
        list(read_records(tmp_path / "c.jsonl"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="no .jsonl"):
        list(read_records(tmp_path / "empty"))
    (tmp_path / "c.db").write_bytes(b"no database" * 100)
    with pytest.raises(ConfigurationError, match="database"):
        list(read_records(tmp_path / "c.db"))


def test_a_file_that_is_rotated_while_it_is_read_is_read_once(tmp_path):
    path = tmp_path / "c.jsonl"
    record(path, range(5))
    found = read_records(path)
    first = next(found).correction.question
    record(path, range(5, 8), max_bytes=1024)
    assert [first, *(one.correction.question for one in found)][:5] == [f"q{n}" for n in range(5)]
    assert sorted(questions(path)) == [f"q{n}" for n in range(8)]
