"""The style sheet of the heat map: a scale of readable steps, light and dark, and the rules of the table."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.figures.canvas import BLUES, INK, MUTED, PAPER, VERMILION, readable_ink, shade

LEVELS = 40  # steps of the scale beside nought
NIGHT = ("#17222e", "#17395a", "#1a5a94", "#2f83c9", "#74b6ea", "#b7dcf7", "#e3f2fd")
NIGHT_INK, NIGHT_PAPER, NIGHT_MUTED, NIGHT_TRUTH = "#e8eef4", "#0e141b", "#9fb0c0", "#ff8a3d"


def steps(scale: Sequence[str], inks: Sequence[str]) -> list[tuple[str, str]]:
    """Return (background, ink) for every step of a scale, from 0 to `LEVELS`."""
    papers = [shade(scale, level / LEVELS) for level in range(LEVELS + 1)]
    return [(paper, readable_ink(paper, inks)) for paper in papers]


DAY_STEPS = steps(BLUES, (INK, PAPER))
NIGHT_STEPS = steps(NIGHT, (NIGHT_INK, NIGHT_PAPER))


def _variables(colours: Sequence[tuple[str, str]], **named: str) -> str:
    cells = [f"--h{level}:{paper};--i{level}:{ink}" for level, (paper, ink) in enumerate(colours)]
    return ";".join([*(f"--{name}:{colour}" for name, colour in named.items()), *cells])


_DAY = _variables(DAY_STEPS, ink=INK, paper=PAPER, muted=MUTED, truth=VERMILION)
_NIGHT = _variables(NIGHT_STEPS, ink=NIGHT_INK, paper=NIGHT_PAPER, muted=NIGHT_MUTED, truth=NIGHT_TRUTH)
_CELLS = "".join(
    f".crl-heat .h{level}{{background:var(--h{level});color:var(--i{level})}}" for level in range(LEVELS + 1)
)

# The caption adds nothing to the table's width: it would draw the cells apart.
# --side is the width of the first column, which stays in sight while the rest scrolls past under it.
_RULES = """
.crl-heat *{color:inherit;font-family:inherit}
.crl-heat{--side:12.5rem;--cell:3rem;--pad:.15rem;--number:.875rem;--best:.9375rem;container-type:inline-size;overflow-x:auto;max-width:100%;background:var(--paper);
color:var(--ink);font-size:.875rem;line-height:1.3;border-radius:.5rem}
.crl-heat:focus-visible{outline:3px solid var(--truth);outline-offset:2px}
.crl-heat table{border-collapse:separate;border-spacing:0;margin:0;width:auto;min-width:0;border:0;
background:none;color:inherit;font-size:inherit;font-variant-numeric:tabular-nums;table-layout:auto}
.crl-heat caption{caption-side:top;text-align:left;padding:0;margin:0;color:inherit}
.crl-heat .c{position:sticky;left:0;width:0}
.crl-heat .c>div{box-sizing:border-box;width:100cqi;padding:.5rem}
.crl-heat .c strong{font-size:1rem;margin-inline-end:.5rem;color:inherit}
.crl-heat .c>div>div{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;margin-top:.3rem;color:var(--muted)}
.crl-heat .c b{color:var(--ink)}
.crl-heat .s{display:inline-flex;align-items:center;gap:.3rem}
.crl-heat .w{display:inline-flex;border:1px solid var(--muted)}
.crl-heat .w i{width:.6rem;height:.8rem}
.crl-heat i.t{width:1rem;height:1rem;border:3px solid var(--truth);box-sizing:border-box}
.crl-heat tr{background:none;border:0}
.crl-heat th,.crl-heat td{border:0 solid var(--paper);text-align:center;vertical-align:middle;padding:0;
font-weight:400;color:inherit;line-height:1.25}
.crl-heat td{position:relative;box-sizing:content-box;
min-width:var(--cell);height:3.25rem;padding:0 var(--pad);
font-size:var(--number);border-width:0 1px 1px 0;
print-color-adjust:exact;-webkit-print-color-adjust:exact;forced-color-adjust:none}
.crl-heat .g{border-left-width:.75rem}
.crl-heat td b{font-weight:800;font-size:var(--best);color:inherit}
.crl-heat td.t::after{content:"";position:absolute;inset:0;border:3px solid var(--truth);
box-shadow:inset 0 0 0 1px var(--paper);pointer-events:none}
.crl-heat td.o{border-left:2px dashed var(--muted)}
.crl-heat thead th{padding:.25rem .15rem;vertical-align:bottom;background:var(--paper)}
.crl-heat thead .m{position:sticky;left:calc(var(--side) + .75rem);display:inline-block;font-weight:700;
font-size:1rem;max-width:calc(100cqi - var(--side) - 1.5rem);overflow-wrap:anywhere}
.crl-heat thead .l{text-align:left}
.crl-heat thead .o{font-style:italic;color:var(--muted)}
.crl-heat .u{white-space:nowrap;font-size:var(--number)}
.crl-heat .v{font-size:var(--number);display:inline-block;max-height:12rem;line-height:1.1;
writing-mode:vertical-rl;transform:rotate(180deg);overflow-wrap:anywhere;text-wrap:balance;text-align:start}
.crl-heat .n,.crl-heat thead .n{position:sticky;left:0;z-index:2;background:var(--paper);padding:0;
text-align:left}
.crl-heat thead .n{padding-bottom:.25rem}
.crl-heat .n>div{display:flex;align-items:center;gap:.5rem;box-sizing:border-box;width:var(--side);
padding:.15rem .25rem .15rem .5rem;overflow-wrap:anywhere;font-size:.8125rem}
.crl-heat .n img{width:48px;height:48px;flex:none;margin:0;border-radius:.25rem;object-fit:cover}
.crl-heat thead .n{color:var(--muted)}
.crl-heat small{display:block;color:var(--muted);font-size:inherit}
.crl-heat .x{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);
white-space:nowrap;user-select:none}
.crl-heat.d{--side:11rem;--cell:2.55rem;--pad:0;--number:.8125rem;--best:.8125rem}
@container (max-width:34rem){.crl-heat .n>div{flex-direction:column;align-items:flex-start;gap:.15rem;
width:6.25rem}.crl-heat thead .m{left:7rem;max-width:calc(100cqi - 7.75rem)}
.crl-heat thead .g{text-align:left}.crl-heat thead tr+tr .g{text-align:center}
.crl-heat td{min-width:2.55rem;padding:0}.crl-heat td b{font-size:.8125rem}}
"""
_LAST = ".crl-heat td.z{color:var(--muted)}"  # a nought's grey goes before the ink of its step

# Said three times, the class outweighs what a page that the table is put into says of every table.
_INSIDE = (_RULES + _CELLS + _LAST).replace("\n", "").replace(".crl-heat ", ".crl-heat.crl-heat.crl-heat ")
STYLE = f".crl-heat{{{_DAY}}}.dark .crl-heat{{{_NIGHT}}}{_INSIDE}"
PAGE_STYLE = (
    f"body.crl-heat-page{{margin:0;background:{PAPER};color:{INK};font-family:system-ui,sans-serif}}"
    ".crl-heat-page main{max-width:110rem;margin:0 auto;padding:1rem}"
    ".crl-heat-page h1{font-size:1.25rem;margin:0 .5rem .5rem;overflow-wrap:anywhere}"
    "@media (prefers-color-scheme:dark){"
    f"body.crl-heat-page{{background:{NIGHT_PAPER};color:{NIGHT_INK}}}.crl-heat-page .crl-heat{{{_NIGHT}}}}}"
    ""
    "@media (max-width:34rem){.crl-heat-page main{padding:.5rem}}"
    "@media print{.crl-heat{overflow:visible}.crl-heat .n,.crl-heat .c,.crl-heat thead .m{position:static}}"
)
