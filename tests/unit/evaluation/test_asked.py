"""Nothing is asked twice, whatever happened in between, and whoever answers how."""

import json
import stat
import threading

import pytest

from aligner_integrations.backends.base import Completion, FakeBackend
from aligner_integrations.backends.wrappers.resilient import Resilience
from aligner_integrations.errors import BackendError, ConfigurationError, EmptyCorrectionError
from aligner_integrations.evaluation.asked import FILE, Kept, Model, ask, key_of


class Counting(FakeBackend):
    """Notes each prompt. `fn(prompt)` is a text, a Completion or an error."""

    def __init__(self, fn, asked):
        super().__init__(fn)
        self.asked = asked

    def _one(self, request):
        self.asked.append(request.prompt)
        try:
            result = self.fn(request.prompt)
        except BackendError as error:
            return error
        return result if isinstance(result, Completion) else Completion(result, "stop")


def model(fn, asked, name="judge", **options):
    rules = Resilience(retries=0, breaker=False, budget=False)
    return Model(name, lambda system: Counting(lambda p: fn(f"{system}{p}"), asked), rules, **options)


PROMPTS = [("s", "one"), ("s", "two"), ("t", "one"), ("s", "one")]


def test_each_thing_is_asked_once_and_replies_are_in_order(tmp_path):
    asked = []
    with Kept(tmp_path) as kept:
        replies = ask(model(str.upper, asked), PROMPTS, kept)
        assert [one.text for one in replies] == ["SONE", "STWO", "TONE", "SONE"]
        assert sorted(asked) == ["one", "one", "two"]
        assert [one.text for one in ask(model(str.upper, asked), PROMPTS, kept)] == [one.text for one in replies]
    assert len(asked) == 3
    with Kept(tmp_path) as kept:  # another run
        again = ask(model(str.upper, asked), PROMPTS, kept)
    assert [(one.text, one.fresh) for one in again] == [(one.text, False) for one in replies]
    assert len(asked) == 3


def test_another_model_or_another_limit_is_asked_anew(tmp_path):
    asked = []
    with Kept(tmp_path) as kept:
        ask(model(str.upper, asked), PROMPTS[:1], kept)
        ask(model(str.upper, asked, name="other"), PROMPTS[:1], kept)
        ask(model(str.upper, asked, max_new_tokens=7), PROMPTS[:1], kept)
    assert len(asked) == 3


def test_failures_stand_in_their_place_and_are_asked_again(tmp_path):
    asked, down = [], [True]

    def fn(prompt):
        if down[0] and "two" in prompt:
            raise BackendError("down")
        return prompt

    with Kept(tmp_path) as kept:
        replies = ask(model(fn, asked), PROMPTS, kept)
        assert isinstance(replies[1], BackendError)
        assert [one.text for i, one in enumerate(replies) if i != 1] == ["sone", "tone", "sone"]
        asked.clear()
        down[0] = False
        assert ask(model(fn, asked), PROMPTS, kept)[1].text == "stwo"
    assert asked == ["two"]


def test_a_cut_reply_is_kept_as_such(tmp_path):
    with Kept(tmp_path) as kept:
        (first,) = ask(model(lambda p: Completion("half", "length"), []), PROMPTS[:1], kept)
        (second,) = ask(model(str.upper, []), PROMPTS[:1], kept)
    assert first.cut and second.cut and second.text == "half"


def test_progress_counts_what_was_kept(tmp_path):
    seen = []
    with Kept(tmp_path) as kept:
        ask(model(str.upper, []), PROMPTS[:1], kept)
        ask(model(str.upper, []), PROMPTS, kept, on_progress=seen.append)
    assert seen[0] == 1 and max(seen) == 3


# What is kept ---------------------------------------------------------------------------------------------------------


def test_only_its_owner_may_read_it(tmp_path):
    with Kept(tmp_path / "new" / "folder") as kept:
        kept.put("k", {"reply": "x"})
    assert stat.S_IMODE((tmp_path / "new" / "folder" / FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_killed_while_it_wrote(tmp_path, cut):
    with Kept(tmp_path) as kept:
        kept.put("one", {"reply": "a\nb\u2028c\ud800"})
        kept.put("two", {"reply": "x" * 40})
    path = tmp_path / FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with Kept(tmp_path) as kept:
        assert kept.get("one") == {"reply": "a\nb\u2028c\ud800"}
        assert kept.get("two") is None
        kept.put("two", {"reply": "x" * 40})
    assert path.read_bytes() == whole


def test_damage_elsewhere_is_named(tmp_path):
    (tmp_path / FILE).write_text('{"key": "a", "reply": ""}\nnonsense\n{"key": "b"}\n')
    with pytest.raises(ConfigurationError, match="line 2: this is nothing that was kept here"):
        Kept(tmp_path)


def test_two_runs_at_once_are_refused(tmp_path):
    with Kept(tmp_path), pytest.raises(ConfigurationError, match="Another run"):
        Kept(tmp_path)
    Kept(tmp_path).close()


def test_threads_write_whole_lines(tmp_path):
    with Kept(tmp_path) as kept:
        threads = [
            threading.Thread(target=lambda n=n: [kept.put(f"{n}-{i}", {"reply": "y" * 5000}) for i in range(20)])
            for n in range(8)
        ]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert len(kept) == 160
    assert len([json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]) == 160


def test_a_full_disk_leaves_no_half_line(tmp_path, monkeypatch):
    import os

    write = os.write
    with Kept(tmp_path) as kept:
        kept.put("one", {"reply": "a"})

        def full(file, data):
            write(file, data[:5])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            kept.put("two", {"reply": "b"})
        monkeypatch.setattr(os, "write", write)
        assert kept.get("two") is None
        kept.put("two", {"reply": "c"})
    with Kept(tmp_path) as kept:
        assert [kept.get(key)["reply"] for key in ("one", "two")] == ["a", "c"]


def test_keys_tell_apart_what_differs():
    assert len({key_of("a", "b"), key_of("ab"), key_of("a", "b", ""), key_of("b", "a")}) == 4
    assert key_of("a", 1) == key_of("a", 1)


def test_an_error_of_the_whole_call_is_that_of_the_reply(tmp_path):
    class Broken(FakeBackend):
        def complete(self, requests):
            raise EmptyCorrectionError("nothing")

    broken = Model("m", lambda system: Broken(str), Resilience(retries=0))
    with Kept(tmp_path) as kept:
        (reply,) = ask(broken, PROMPTS[:1], kept)
    assert isinstance(reply, EmptyCorrectionError)
