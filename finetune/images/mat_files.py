"""MATLAB files: structs by field name and lists of names, in whatever shape loadmat hands them over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import DataError


def read_mat(file: Path) -> Mapping[str, Any]:
    """Return the variables of a .mat file (version 4 to 7.2).

    Raises DataError naming the file when it is missing, damaged or of version 7.3 (HDF5).
    """
    from scipy.io import loadmat

    try:
        content: Mapping[str, Any] = loadmat(str(file))
    except NotImplementedError:
        raise DataError(f"{file} is of version 7.3; save it in MATLAB with save(..., '-v7')") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # damaged bytes make the decoder raise anything; the cause stays attached
        raise DataError(f"{file} is no whole .mat file: {error}") from error
    return content


def variable(file: Path, content: Mapping[str, Any], name: str) -> np.ndarray:
    """Return the variable `name` as an array; DataError lists the variables there are."""
    if name not in content:
        known = ", ".join(key for key in content if not key.startswith("__")) or "nothing"
        raise DataError(f"{file} holds no variable {name!r}; found {known}")
    return np.atleast_1d(np.asarray(content[name]))


def struct_rows(
    where: str, structs: np.ndarray, numbers: Sequence[str], texts: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the structs' fields, `numbers` and `texts`, as plain values, one dictionary per struct.

    Fields are found by name, never by place, and each value is taken out of the one-element arrays that
    surround it unless the file was read with squeezing: 1xN, Nx1 and N arrays of structs all give the same.
    Raises DataError, naming `where`, for something that is no struct array, lacks a field, or has a field
    that holds no single finite number or text.
    """
    fields = (*numbers, *texts)
    known = structs.dtype.names or ()
    absent = [name for name in fields if name not in known]
    if absent:
        raise DataError(f"{where}: no field {', '.join(absent)}; found {', '.join(known) or 'no struct'}")
    rows = []
    for place, struct in enumerate(structs.ravel(), start=1):
        row = {name: plain(struct[name]) for name in fields}
        odd = [name for name in numbers if not _is_number(row[name])]
        odd += [name for name in texts if not isinstance(row[name], str)]
        if odd:
            raise DataError(
                f"{where}, struct {place}: {', '.join(odd)} holds no single number "
                f"(or, for {', '.join(texts)}, no text)"
            )
        rows.append(row)
    return rows


def strings(cells: np.ndarray) -> tuple[str, ...]:
    """Return a cell array of strings (or a matrix of letters) as stripped strings."""
    return tuple(str(plain(cell)).strip() for cell in cells.ravel())


def plain(value: Any) -> str | float | int | None:
    """Return the one number or string inside nested one-element arrays; None where there is not just one."""
    while isinstance(value, np.ndarray):
        if value.size != 1:
            return None
        value = value.reshape(-1)[0]
    result: str | float | int = value.item() if isinstance(value, np.generic) else value
    return result


def _is_number(value: str | float | int | None) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
