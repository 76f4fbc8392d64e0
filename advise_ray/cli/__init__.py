"""The `advise-ray` command line: each command parses its options, calls the rest of the package, and prints.

No other part of the package may import `advise_ray.cli`. The module `main` has all commands.
"""
