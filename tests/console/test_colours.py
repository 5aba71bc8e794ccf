"""Contrast by WCAG 2.2 AA, computed from the console's own variables, in light and in dark."""

from __future__ import annotations

import re

import pytest

from cachenode.console.assets import assets

TEXT, GRAPHIC = 4.5, 3.0
PAIRS = [
    *((text, ground, TEXT) for text in ("ink", "muted") for ground in ("ground", "surface", "raised")),
    *(("ink", f"{kind}-soft", TEXT) for kind in ("warn", "bad")),
    *(("muted", f"{kind}-soft", TEXT) for kind in ("warn", "bad")),
    *((kind, f"{kind}-soft", TEXT) for kind in ("good", "warn", "bad", "accent")),
    *((kind, ground, TEXT) for kind in ("good", "bad", "accent") for ground in ("ground", "surface")),
    ("on-accent", "accent", TEXT),
    ("on-bad", "bad", TEXT),
    ("ground", "ink", TEXT),
    *(("edge", ground, GRAPHIC) for ground in ("surface", "ground")),
    *((f"s{number}", "surface", GRAPHIC) for number in range(1, 9)),
]


def palettes() -> dict[str, dict[str, str]]:
    """Return the variables of each palette; what dark does not say is light's."""
    text = assets()["colours.css"].body.decode()
    blocks = re.findall(r"(:root[^{]*)\{([^}]*)\}", text)
    light, dark = (dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", block)) for _, block in blocks)
    return {"light": light, "dark": light | dark}


def luminance(colour: str) -> float:
    """Return the relative luminance of a colour (WCAG 2.2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Return how far two colours are apart, 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("front", "back", "least"), PAIRS, ids=str)
def test_contrast(theme: str, front: str, back: str, least: float) -> None:
    """Text is read at 4.5 to 1, lines and marks are seen at 3 to 1."""
    palette = palettes()[theme]
    assert contrast(palette[front], palette[back]) >= least


def test_contrast_is_computed_as_wcag_does() -> None:
    """Black on white is 21 to 1, a colour on itself 1 to 1, and this grey just passes."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#123456", "#123456") == 1
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


def test_colours_are_in_one_place() -> None:
    """Rules use variables alone, so what is computed here is all there is."""
    rules = assets()["console.css"].body.decode()
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b", rules) == []
    known = set(palettes()["light"]) | {"c"}
    assert set(re.findall(r"var\(--([a-z0-9-]+)\)", rules)) <= known
