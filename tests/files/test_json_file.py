import json
import math
import threading

import pytest

from ssd_jax.errors import InputError
from ssd_jax.files.json_file import append_json, json_text, parse_json, read_json, write_json


def test_what_is_not_finite_is_written_as_null():
    assert json_text({"a": [math.inf, (1.5, math.nan)], "b": 1}) == '{"a": [null, [1.5, null]], "b": 1}'


def test_written_files_are_read_again(tmp_path):
    write_json(tmp_path / "deep" / "a.json", {"a": [1, "ä"]})
    assert read_json(tmp_path / "deep" / "a.json") == {"a": [1, "ä"]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deep"),
        ("{" + '"a":{' * 100_000, "nested too deep"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": -Infinity}', "-Infinity is no number"),
        ('{"a": 1', "no JSON"),
        ("1" * 10_000, "no JSON"),
    ],
)
def test_hostile_text_is_refused_in_a_few_words(text, reason):
    with pytest.raises(InputError, match=reason) as refused:
        parse_json(text)
    assert len(str(refused.value)) < 300 and "\n" not in str(refused.value)


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder.json").mkdir()
    for name in ("binary.json", "folder.json"):
        with pytest.raises(InputError, match=f"{name} cannot be read: "):
            read_json(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "missing.json")
    (tmp_path / "whole.json").write_text(json.dumps([1]))
    assert read_json(tmp_path / "whole.json") == [1]


def test_lines_are_added_whole(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    path.write_text('{"cut off": ')
    threads = [threading.Thread(target=append_json, args=(path, {"i": i, "x": float("inf")})) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, *lines = path.read_text().splitlines()
    assert first == '{"cut off": ' and sorted(json.loads(line)["i"] for line in lines) == list(range(20))
    assert json.loads(lines[0])["x"] is None
