"""The commands: they parse, call the rest of the package, and print.

Nothing else may import this package; `main` has all commands.
"""
