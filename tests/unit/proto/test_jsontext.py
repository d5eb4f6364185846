"""JSON without json's package: the same values, and json's own errors."""

import json
import subprocess
import sys

import pytest

from proto import jsontext
from sandbox.interpreter import INSTALLATION

VALUES = [
    {}, [], "", 0, -1, 1.5, 1e300, True, None, "é\u2028\ud800", {"a": {"b": [1, {"c": None}]}, "é": "\n\t\x01\"\\"},
    [2**70, -0.0], {"nested": [[[]]]},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_what_is_written_is_read_by_json_and_the_other_way_round(value):
    assert json.loads(jsontext.dumps(value)) == value
    assert json.loads(jsontext.pretty(value)) == value
    assert jsontext.loads(json.dumps(value)) == value
    assert jsontext.loads(json.dumps(value, indent=3)) == value
    assert jsontext.loads(f"\n {json.dumps(value)} \n") == value


@pytest.mark.parametrize("text", ["", " ", "{", "[1,]", "{'a': 1}", "1 2", '"\x01"', "nul", '{"a" 1}', "\ufeff{}"])
def test_errors_are_those_of_json(text):
    with pytest.raises(ValueError) as theirs:
        json.loads(text)
    with pytest.raises(ValueError) as ours:
        jsontext.loads(text)
    assert str(ours.value) == str(theirs.value)


def test_bytes_are_utf_8_with_or_without_a_mark():
    assert jsontext.loads('"é"'.encode()) == jsontext.loads(b'\xef\xbb\xbf"\xc3\xa9"') == "é"
    with pytest.raises(ValueError):
        jsontext.loads(b'"\xff"')


def test_depth_without_end_is_refused():
    with pytest.raises(RecursionError):
        jsontext.loads("[" * 1_000_000)


def test_pretty_has_a_line_for_each_member():
    assert jsontext.pretty({"a": 1, "b": {"c": [1, 2]}}) == '{\n  "a": 1,\n  "b": {\n    "c": [1,2]\n  }\n}'


def test_it_does_without_the_interpreters_own():
    code = (
        f"import sys; sys.path.append({INSTALLATION!r}); sys.modules['_json'] = None\n"
        "from proto import jsontext\n"
        "print(jsontext.dumps(jsontext.loads(' {\"a\": [1, null]}')))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == '{"a":[1,null]}\n'
