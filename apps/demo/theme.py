"""The demo's colours and files: what gradio's theme is told, its stylesheet and its icon."""

from __future__ import annotations

from pathlib import Path

STYLESHEET = Path(__file__).with_name("demo.css")
FAVICON = Path(__file__).with_name("favicon.svg")
BLUE, BLUE_DARK, SKY = "#0072B2", "#005A8E", "#56b4e9"
FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Consolas", "monospace")

# The theme's values, for light and (with _dark) dark; the rest is in demo.css.
LOOK = {
    "body_background_fill": ("#f5f7f9", "#0e1419"),
    "body_text_color": ("#16202a", "#e9eef2"),
    "body_text_color_subdued": ("#586674", "#9dabb7"),
    "background_fill_primary": ("#ffffff", "#161e25"),
    "background_fill_secondary": ("#f0f3f6", "#1d2730"),
    "block_background_fill": ("#ffffff", "#161e25"),
    "block_border_color": ("#dde3e9", "#2b3742"),
    "block_label_text_color": ("#586674", "#9dabb7"),
    "block_info_text_color": ("#586674", "#9dabb7"),
    "block_title_text_color": ("#16202a", "#e9eef2"),
    "border_color_primary": ("#dde3e9", "#2b3742"),
    "border_color_accent": (BLUE, SKY),
    "color_accent": (BLUE, None),
    "color_accent_soft": ("#e8f3fa", "#14303f"),
    "link_text_color": (BLUE, SKY),
    "input_background_fill": ("#f0f3f6", "#1d2730"),
    "input_border_color": ("#c9d2da", "#3a4855"),
    "input_border_color_focus": (BLUE, SKY),
    "checkbox_background_color": ("#ffffff", "#0e1419"),
    "checkbox_background_color_selected": (BLUE, BLUE),
    "checkbox_border_color": ("#8593a0", "#6c7a87"),
    "checkbox_border_color_selected": (BLUE, SKY),
    "checkbox_label_background_fill": ("#f0f3f6", "#1d2730"),
    "checkbox_label_background_fill_selected": ("#e8f3fa", "#14303f"),
    "checkbox_label_text_color_selected": ("#16202a", "#e9eef2"),
    "button_primary_background_fill": (BLUE, BLUE),
    "button_primary_background_fill_hover": (BLUE_DARK, "#1585c4"),
    "button_primary_text_color": ("#ffffff", "#ffffff"),
    "button_secondary_background_fill": ("#ffffff", "#1d2730"),
    "button_secondary_background_fill_hover": ("#f0f3f6", "#26323c"),
    "button_secondary_border_color": ("#c9d2da", "#3a4855"),
    "button_secondary_text_color": ("#16202a", "#e9eef2"),
    "slider_color": (BLUE, SKY),
}


def theme_values() -> dict[str, str]:
    """Return `LOOK` as the arguments of a gradio theme's `set`: the dark values end in _dark."""
    values = {name: light for name, (light, _) in LOOK.items() if light is not None}
    return {**values, **{f"{name}_dark": dark for name, (_, dark) in LOOK.items() if dark is not None}}
