"""`python -m finegrained` is `crl fine`, also under torchrun."""

from finegrained.commands import main

if __name__ == "__main__":
    raise SystemExit(main())
