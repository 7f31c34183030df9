"""`python -m finegrained` is `crl fine`, also under torchrun."""

from finegrained.commands import main
from finetune.runs.interrupts import ended_as_by_ctrl_c

if __name__ == "__main__":
    with ended_as_by_ctrl_c(for_good=True):
        code = main()
    raise SystemExit(code)
