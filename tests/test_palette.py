"""The palette: readable on every page, one colour per thing, the same for pages and plots."""

import re

import pytest

from alignlab import palette

TEXT = [key for key in palette.LIGHT if key not in ("faint", "paper", "panel", "code") and not key.endswith("-soft")]
PAGES = {"light": palette.LIGHT, "dark": palette.DARK}


def luminance(colour: str) -> float:
    """WCAG 2.2 relative luminance of #rrggbb."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: str, b: str) -> float:
    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_of_black_and_white_is_21_and_of_a_known_grey_pair_4_48() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # the well-known grey that just fails AA


def test_light_and_dark_have_the_same_keys_and_every_role_a_soft_fill() -> None:
    assert list(palette.LIGHT) == list(palette.DARK)
    for role in palette.ROLES:
        assert {role, f"{role}-soft"} <= palette.LIGHT.keys()


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("key", TEXT)
def test_text_colours_reach_aa_on_every_surface(page: str, key: str) -> None:
    colours = PAGES[page]
    surfaces = ["paper", "panel", "code"] + ([f"{key}-soft"] if f"{key}-soft" in colours else [])
    for surface in surfaces:
        assert contrast(colours[key], colours[surface]) >= 4.5, surface


@pytest.mark.parametrize("page", PAGES)
def test_ink_and_muted_text_reach_aa_on_every_soft_fill(page: str) -> None:
    colours = PAGES[page]
    for key in colours:
        if key.endswith("-soft"):
            assert min(contrast(colours["ink"], colours[key]), contrast(colours["muted"], colours[key])) >= 4.5, key


@pytest.mark.parametrize("page", PAGES)
def test_mid_contrast_colours_reach_3_to_1_on_the_page_and_in_jupyter(page: str) -> None:
    for key, colour in palette.MIDDLE.items():
        if colour.startswith("#"):
            jupyter = {"light": "#ffffff", "dark": "#111111"}[page]
            assert contrast(colour, PAGES[page]["paper"]) >= 3, key
            assert contrast(colour, jupyter) >= 3, key


def test_roles_have_distinct_colours_in_each_palette() -> None:
    for colours in (palette.LIGHT, palette.DARK, palette.MIDDLE):
        assert len({colours[role] for role in palette.ROLES}) == len(palette.ROLES)


def test_css_defines_every_key_in_each_of_its_six_rules() -> None:
    rules = re.findall(r"([^{}]+)\{color-scheme:(light|dark);([^}]*)\}", palette.css())
    assert [scheme for _, scheme, _ in rules] == ["light", "dark", "dark", "light", "light", "dark"]
    for _, scheme, body in rules:
        assert dict(re.findall(r"--al-([a-z-]+):([^;]+);", body)) == PAGES[scheme]


def test_css_follows_the_system_only_where_the_page_has_no_theme() -> None:
    assert "@media (prefers-color-scheme: dark){\n:root:not([data-theme])" in palette.css()
    assert 'html[data-theme="dark"],body[data-jp-theme-light="false"]{color-scheme:dark' in palette.css()


def test_css_is_light_on_paper_and_follows_the_system_where_it_forces_its_colours() -> None:
    assert '@media screen{\nhtml[data-theme="dark"]' in palette.css()
    *_, light, dark = palette.css().split("@media ")
    for scheme, rule in (("light", light), ("dark", dark)):
        head, selector, _ = rule.split("{", 2)
        assert head == f"(forced-colors: active) and (prefers-color-scheme: {scheme})"
        assert selector.strip() == "html:root,body[data-jp-theme-light]"  # as strong as a chosen theme, and after it
        assert f"color-scheme:{scheme}" in rule


def test_colour_names_the_variable_with_a_fallback_and_rejects_unknown_keys() -> None:
    assert palette.colour("policy") == f"var(--al-policy, {palette.MIDDLE['policy']})"
    assert palette.colour("ink") == "var(--al-ink, inherit)"
    assert palette.colour("kl-soft").startswith("var(--al-kl-soft, rgba(")
    with pytest.raises(KeyError, match="chosn"):
        palette.colour("chosn")


def test_importing_the_palette_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    code = "import sys, alignlab.palette; print([m for m in ('torch', 'numpy', 'plotly') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_plotly_template_is_transparent_and_uses_the_role_colours() -> None:
    import plotly.graph_objects as go
    import plotly.io as pio

    name = palette.plotly_template()
    layout = pio.templates[name].layout
    assert name == "alignlab"
    assert layout.paper_bgcolor == layout.plot_bgcolor == "rgba(0,0,0,0)"
    assert list(layout.colorway) == [palette.MIDDLE[role] for role in palette.ROLES]
    assert go.Figure(layout={"template": name}).layout.template.layout.hovermode == "x unified"
