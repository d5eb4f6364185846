"""Writes the options in docs/configuration.md from sandbox/settings.py."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "docs" / "configuration.md"
BEGIN = "<!-- begin: written by make gen -->\n"
END = "<!-- end: written by make gen -->\n"


def sections() -> str:
    """A heading an option, so that others can link to it."""
    from sandbox.settings import ANNOTATION_PREFIX, SETTINGS, as_toml

    parts = []
    for setting in SETTINGS:
        text = setting.help.replace("platforms.md", "[platforms](platforms.md)")
        facts = [
            f"- value: {setting.kind.expected.rstrip(',')}",
            f"- default: `{setting.name} = {as_toml(setting.default)}`",
            f"- annotation: `{ANNOTATION_PREFIX}{setting.name}`" if setting.by_annotation else "- annotation: never",
        ]
        if setting.flag:
            facts.append("- flag: " + ", ".join(f"`--{flag.lstrip('-')}`" for flag in setting.flag.split(", ")))
        parts.append(f"\n### {setting.name}\n\n{text}\n\n" + "\n".join(facts) + "\n")
    return "".join(parts) + "\n"


def with_sections(text: str) -> str:
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + sections() + END + after


def outputs() -> dict[Path, str]:
    return {OUT: with_sections(OUT.read_text())}
