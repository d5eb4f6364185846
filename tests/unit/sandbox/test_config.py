"""Options: what values may be, which source wins, what is said about those that are wrong."""

import pytest

from sandbox import config
from sandbox.config import InvalidConfig, Layer, parse, parse_flag, parse_shim_table, sandbox_fields, settle
from sandbox.sandbox import Options
from sandbox.settings import BY_NAME, SETTINGS, Choice, as_toml
from sentry.boot import PLATFORMS, VARIANTS


def layer(text, origin="/f.toml"):
    return parse(text, origin)


def test_without_any_source_the_defaults_hold():
    settled = settle([], {})
    assert settled.values == {setting.name: setting.default for setting in SETTINGS}
    assert set(settled.origins.values()) == {"default"}


def test_the_platforms_are_those_that_the_sentry_has():
    kind = BY_NAME["platform"].kind
    assert isinstance(kind, Choice)
    variants = {f"{platform}:{variant}" for platform, names in VARIANTS.items() for variant in names}
    assert set(kind.words) == {"auto", *PLATFORMS, *variants}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_each_default_is_a_value_that_a_file_may_have(setting):
    read = layer(f"{setting.name} = {as_toml(setting.default)}")
    assert read.values == {setting.name: setting.default}


def test_later_sources_win_one_by_one():
    text = 'platform = "ptrace"\nlog_level = "error"\nwatchdog = 5\nannotations = ["log_level", "watchdog"]'
    node = layer(text, "/n")
    given = layer('log_level = "warning"\nwatchdog = 6', "/g")
    annotations = {"dev.pysc.watchdog": "7", "dev.pysc.log_level": "debug", "other/dev.pysc.platform": "kvm"}
    settled = settle([node, given], annotations, [parse_flag("watchdog", "watchdog", "8")])
    assert [settled.values[name] for name in ("platform", "log_level", "watchdog")] == ["ptrace", "debug", 8]
    assert [settled.origins[name] for name in ("platform", "log_level", "watchdog", "debug")] == [
        "/n", "annotation dev.pysc.log_level", "flag --watchdog", "default",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "annotation", "value", "why"),
    [
        ("", ("platform", "ptrace"), "ptrace", ""),
        ("", ("platform", ""), "auto", ""),
        ("", ("strace", "true"), False, "does not name it"),
        ('platform = "systrap"', ("platform", "ptrace"), "systrap", "/f.toml sets it"),
        ('platform = "systrap"\nannotations = ["platform"]', ("platform", "ptrace"), "ptrace", ""),
        ("annotations = []", ("platform", "ptrace"), "auto", "does not name it"),
        ('annotations = ["strace"]', ("strace", "open, close"), ("open", "close"), ""),
        ("", ("log", "/tmp/x"), "", "pods never choose that"),
        ("", ("annotations", "strace"), ("platform",), "pods never choose that"),
    ],
)
def test_pods_choose_what_the_administrator_lets_them(file, annotation, value, why):
    name, text = annotation
    settled = settle([layer(file)], {f"dev.pysc.{name}": text})
    assert settled.values[name] == value
    (warning,) = settled.warnings or [""]
    assert why in warning
    assert bool(why) == bool(warning)


def test_an_annotation_with_more_dots_is_no_option():
    assert settle([], {"dev.pysc.other.thing": "x", "dev.pysc": "y"}).warnings == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('platfrom = "kvm"', r"^/f.toml: platfrom: there is no such option; did you mean platform\?$"),
        ("zzz = 1", r"^/f.toml: zzz: there is no such option$"),
        ("[watchdog]\nx = 1", r"^/f.toml: watchdog: 0 or a whole number of seconds from 2 to 86400 expected, not {'x'"),
        ("watchdog = true", "whole number"),
        ("watchdog = 1", "whole number"),
        ("watchdog = -3", "whole number"),
        ('platform = ["kvm"]', "one of"),
        ('network = "host"', r"'host' does not exist yet"),
        ("strace = []", "true or false, or a list of system calls, expected"),
        ("strace = [1]", "a list of system calls expected"),
        ('strace = "open"', "true or false, or a list"),
        ("debug = 1", "true or false expected, not 1"),
        ('log = "relative/path"', "an absolute path"),
        ('log = "/a\\u0000b"', "an absolute path"),
        ('annotations = ["strac"]', r"'strac': there is no such option; did you mean strace\?"),
        ('annotations = ["log"]', "'log' is not for annotations"),
        ("debug = true\nplatform = =\n", r"^/f.toml: not TOML: .*line 2"),
    ],
)
def test_what_is_wrong_is_said_with_file_key_and_what_was_expected(text, message):
    with pytest.raises(InvalidConfig, match=message):
        layer(text)


def test_keys_that_containerd_adds_to_its_own_table_are_no_options():
    text = 'TypeUrl = "io.containerd.pysc.v1.options"\nConfigPath = ""\nstrace = true\n'
    assert parse_shim_table(text).values == {"strace": True}
    with pytest.raises(InvalidConfig, match="TypeUrl: there is no such option"):
        layer(text)


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"a = "])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "pysc.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidConfig, match=f"^{path}: "):
        config.read_file(path)


def test_a_named_file_of_the_node_must_be_there_the_usual_one_need_not(tmp_path, monkeypatch):
    monkeypatch.setenv("PYSC_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(InvalidConfig, match="No such file"):
        config.read_node_file()
    monkeypatch.setenv("PYSC_CONFIG", "")
    assert config.read_node_file() == Layer("")
    monkeypatch.delenv("PYSC_CONFIG")
    monkeypatch.setattr(config, "NODE_FILE", str(tmp_path / "none.toml"))
    assert config.read_node_file().values == {}


@pytest.mark.parametrize(
    ("log", "path"),
    [("", None), ("/l/%ID%/x", "/l/c1/x"), ("/l/", "/l/c1.log"), ("/l/all.log", "/l/all.log")],
)
def test_the_log_is_a_file_or_in_a_folder(log, path):
    assert config.log_path(settle([layer(f'log = "{log}"')], {}), "c1") == path


def test_options_become_those_of_a_sandbox():
    text = 'debug = true\nwatchdog_action = "kill"\ncgroup_driver = "disabled"\nstrace = ["open"]\nnetwork = "none"'
    options = Options(**sandbox_fields(settle([layer(text)], {}), "c1"))
    assert (options.log_level, options.watchdog_s, options.watchdog_kills) == ("debug", 60, True)
    assert (options.ignore_cgroups, options.systemd_cgroup, options.network) == (True, None, "none")
    assert (options.strace, options.strace_calls) == (True, ("open",))


@pytest.mark.parametrize("value", [True, 12, 'a "quoted" \x7f \\ ü', ("a", "b"), ()])
def test_values_are_written_as_toml_reads_them(value):
    import tomllib

    read = tomllib.loads(f"x = {as_toml(value)}")["x"]
    assert (tuple(read) if isinstance(read, list) else read) == value
