"""Words and pixels from outside, made fit for the demo's page."""

from __future__ import annotations

import base64
from html import escape

import cv2
import numpy as np


def data_uri(image: np.ndarray, kind: str = ".png") -> str:
    """Return uint8 (H, W, 3) RGB pixels as a data URI: exact as .png, smaller as .jpg."""
    made, data = cv2.imencode(kind, cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR))
    if not made:
        raise ValueError(f"the picture of shape {image.shape} could not be written as {kind}")
    name = {".png": "png", ".jpg": "jpeg"}[kind]
    return f"data:image/{name};base64,{base64.b64encode(data.tobytes()).decode('ascii')}"


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
