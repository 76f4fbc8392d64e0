"""How the package uses Ray, this process and the machine. Only this package uses private API of Ray.

This package must not know what a run trains: no loss, no metric, no checkpoint.
"""
