"""`python -m generalcls` is `crl general`."""

from finetune.runs.interrupts import ended_as_by_ctrl_c
from generalcls.commands import main

if __name__ == "__main__":
    with ended_as_by_ctrl_c(for_good=True):
        code = main()
    raise SystemExit(code)
