"""The picture: well-formed, on scale, and in both themes."""

from __future__ import annotations

from xml.etree import ElementTree

from bench.picture import HIGHEST, LOWEST, picture, x_of
from tests.unit.bench.records import record

SVG = "{http://www.w3.org/2000/svg}"


def rects(kind: str) -> list[ElementTree.Element]:
    """The bars of a runtime, its sample in the legend first."""
    return [each for each in ElementTree.fromstring(picture(record())).iter(f"{SVG}rect") if each.get("class") == kind]


def test_every_ratio_has_a_bar():
    assert len(rects("runsc-ptrace")) == 1 + len(("getpid", "tcp", "ctr_run"))


def test_a_row_without_a_number_has_no_bar():
    assert len(rects("pysc-ptrace")) == 1 + len(("getpid", "ctr_run"))


def test_the_base_is_a_line_not_a_bar():
    assert rects("native") == []
    assert len(rects("runc")) == 1 + len(("getpid", "tcp"))


def test_a_bar_is_as_long_as_its_ratio_says():
    bar = rects("pysc-ptrace")[1]
    assert abs(float(bar.attrib["width"]) - (x_of(50) - x_of(1))) < 0.1


def test_the_scale_is_logarithmic_and_bounded():
    assert abs((x_of(100) - x_of(10)) - (x_of(10) - x_of(1))) < 1e-6
    assert x_of(1e9) == x_of(HIGHEST) and x_of(1e-9) == x_of(LOWEST)


def test_the_dark_theme_has_colours_of_its_own():
    style = ElementTree.fromstring(picture(record())).find(f"{SVG}style")
    assert style is not None and style.text is not None
    light, _, dark = style.text.partition("@media (prefers-color-scheme: dark)")
    assert ".pysc-ptrace" in light and ".pysc-ptrace" in dark
