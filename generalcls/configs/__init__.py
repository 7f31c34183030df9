"""Recipes of the papers' general tables, one YAML file each; `crl general study --config NAME`."""
