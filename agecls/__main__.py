"""`python -m agecls` is `crl age`, also under torchrun."""

from agecls.commands import main
from finetune.runs.interrupts import ended_as_by_ctrl_c

if __name__ == "__main__":
    with ended_as_by_ctrl_c(for_good=True):
        code = main()
    raise SystemExit(code)
