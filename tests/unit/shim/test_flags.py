"""The command line, as containerd's versions write it."""

import pytest

from shim.flags import parse


def test_start_as_containerd_calls_it() -> None:
    line = "-namespace default -address /x.sock -publish-binary /usr/bin/containerd -id p1 start"
    flags = parse(line.split())
    assert (flags.action, flags.namespace, flags.address, flags.id) == ("start", "default", "/x.sock", "p1")
    assert not flags.debug


def test_delete_with_bundle_and_debug() -> None:
    line = "-namespace k8s.io -debug -id p1 -bundle /b/p1 delete"
    flags = parse(line.split())
    assert (flags.action, flags.bundle, flags.debug) == ("delete", "/b/p1", True)


@pytest.mark.parametrize("word", ["-id=p1", "--id=p1"])
def test_value_behind_an_equals_sign(word: str) -> None:
    assert parse([word, "start"]).id == "p1"


def test_two_dashes_are_as_good_as_one() -> None:
    assert parse(["--id", "p1", "--debug", "start"]).id == "p1"


def test_unknown_flags_are_skipped() -> None:
    flags = parse(["-new-switch", "-other=1", "-id", "p1", "start"])
    assert (flags.id, flags.action) == ("p1", "start")


def test_address_may_have_a_scheme() -> None:
    assert parse(["-address", "unix:///run/c.sock", "start"]).address == "/run/c.sock"


@pytest.mark.parametrize(("word", "on"), [("-debug=false", False), ("-debug=true", True), ("-debug", True)])
def test_switch_with_a_value(word: str, on: bool) -> None:
    assert parse([word, "start"]).debug is on


@pytest.mark.parametrize("word", ["-v", "-version", "--version"])
def test_version(word: str) -> None:
    assert parse([word]).version
