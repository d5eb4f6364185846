"""The system call table as a whole."""

import csv
import io
import json
import subprocess
import sys

import pytest

from sentry.abi.errno import LinuxError
from sentry.abi.nr_x86_64 import NAMES
from sentry.syscalls import listing
from sentry.syscalls.registry import HANDLERS, build_table, decoder
from sentry.syscalls.unsupported import ROWS


@pytest.fixture(scope="module")
def table():
    return build_table()


def test_every_number_has_a_row(table):
    assert table.keys() == NAMES.keys()


def test_no_refusal_is_stale(table):
    """A call that has a handler must not be listed as refused as well."""
    assert [name for name in ROWS if HANDLERS[name].support != "none"] == []


def test_every_handler_is_a_system_call(table):
    assert set(HANDLERS) == set(NAMES.values())


def test_refused_calls_raise_their_errno(table):
    for row in table.values():
        if row.errno is not None:
            with pytest.raises(row.errno):
                row.call(None, (0,) * 6)


def test_handlers_are_documented_and_take_at_most_six_arguments(table):
    for row in table.values():
        assert len(row.kinds) <= 6, row.name
        assert row.doc or row.errno is not None, row.name


def test_arguments_are_decoded_as_the_handler_gets_them(table):
    minus_one = (1 << 64) - 1
    assert decoder("lseek")((minus_one, minus_one, minus_one)) == (-1, -1, -1)
    assert decoder("write")((minus_one, minus_one, 5)) == (-1, minus_one, 5)
    assert decoder("getpid")(()) == ()


def test_formats_agree(table):
    rows = listing.rows()
    assert [entry["name"] for entry in json.loads(listing.as_json(rows))] == [row.name for row in rows]
    assert len(list(csv.DictReader(io.StringIO(listing.as_csv(rows))))) == len(rows)
    assert len(listing.as_table(rows).splitlines()) == len(rows) + 2
    assert sum(line.startswith("| ") for line in listing.as_markdown(rows).splitlines()) == len(rows) + 2


def test_the_module_prints_it():
    done = subprocess.run([sys.executable, "-m", "sentry.syscalls", "--format", "csv"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "22,pipe," in done.stdout


def test_errno_classes_have_distinct_codes():
    codes = [error.code for error in LinuxError.__subclasses__()]
    assert len(codes) == len(set(codes))
