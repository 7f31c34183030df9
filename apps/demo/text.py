"""Words and pixels from outside, made fit for the demo's page."""

from __future__ import annotations

import base64
from html import escape

import numpy as np

from apps.heatmap.picture import encode_image


def data_uri(image: np.ndarray, kind: str = ".png") -> str:
    """Return uint8 (H, W, 3) RGB pixels as a data URI: exact as .png, smaller as .jpg."""
    name = {".png": "png", ".jpg": "jpeg"}[kind]
    return f"data:image/{name};base64,{base64.b64encode(encode_image(image, kind)).decode('ascii')}"


def safe(words: str) -> str:
    """Return words from outside, escaped, signs that steer lines or writing direction made visible.

    >>> safe("<b>.jpg"), safe("a\\u202egpj.exe") == "a\\ufffdgpj.exe"
    ('&lt;b&gt;.jpg', True)
    """
    return escape("".join(sign if sign.isprintable() else "\ufffd" for sign in words))


def percent(probability: float) -> str:
    """Return a probability in percent, never rounded to certainty.

    >>> percent(0.6149), percent(0.00001), percent(0.99999)
    ('61.5 %', '< 0.1 %', '> 99.9 %')
    """
    if probability < 0.0005:
        return "< 0.1 %"
    return "> 99.9 %" if probability > 0.9995 else f"{100 * probability:.1f} %"
