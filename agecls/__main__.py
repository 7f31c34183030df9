"""`python -m agecls` is `crl age`, also under torchrun."""

from agecls.commands import main

if __name__ == "__main__":
    raise SystemExit(main())
