"""Command lines as engines and people write them."""

import pytest

from cli.args import Flag, UsageError, describe_flags, ignored, parse

FLAGS = (
    Flag("bundle", "the bundle", str, short="b"),
    Flag("detach", "", short="d"),
    Flag("tty", "", short="t"),
    Flag("count", "", int, default=3),
    Flag("env", "", list, short="e"),
    *ignored("no-pivot"),
)


@pytest.mark.parametrize(
    ("argv", "bundle", "detach", "words"),
    [
        ([], None, False, []),
        (["--bundle", "/x", "id"], "/x", False, ["id"]),
        (["--bundle=/x", "id"], "/x", False, ["id"]),
        (["-b", "/x", "-d", "id"], "/x", True, ["id"]),
        (["-bundle", "/x", "--detach=false"], "/x", False, []),
        (["id", "--detach", "more"], None, True, ["id", "more"]),
        (["id", "--", "--detach"], None, False, ["id", "--detach"]),
        (["-dt", "-"], None, True, ["-"]),
        (["--no-pivot", "--bundle="], "", False, []),
    ],
)
def test_flags_in_every_spelling(argv, bundle, detach, words):
    values, rest = parse(FLAGS, argv)

    assert (values["bundle"], values["detach"], rest) == (bundle, detach, words)


def test_numbers_lists_and_defaults():
    values, _ = parse(FLAGS, ["--count", "5", "-e", "A=1", "--env=B=2"])

    assert values["count"] == 5 and values["env"] == ["A=1", "B=2"]
    again, _ = parse(FLAGS, [])
    assert again["count"] == 3 and again["env"] == []


def test_a_users_command_keeps_its_own_flags():
    values, words = parse(FLAGS, ["-d", "id", "sh", "-b", "--detach"], flags_first=True)

    assert values["detach"] and values["bundle"] is None
    assert words == ["id", "sh", "-b", "--detach"]


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--nope"], "unknown flag --nope"),
        (["-dx"], "unknown flag -dx"),
        (["--bundle"], "flag --bundle needs a value"),
        (["--count=x"], "flag --count: 'x' is not a number"),
        (["--detach=maybe"], "flag --detach: 'maybe' is not true or false"),
        (["--db"], "unknown flag --db"),
    ],
)
def test_mistakes_are_named(argv, text):
    with pytest.raises(UsageError, match=text):
        parse(FLAGS, argv)


def test_help_lists_what_has_a_help_text():
    assert describe_flags(FLAGS) == "  -b, --bundle STR  the bundle\n"
