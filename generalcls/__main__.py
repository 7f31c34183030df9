"""`python -m generalcls` is `crl general`."""

from generalcls.commands import main

if __name__ == "__main__":
    raise SystemExit(main())
