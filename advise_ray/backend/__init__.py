"""Access to Ray, to this process and to the machine. Private API of Ray is used only in this package.

This package must not know what a run trains: no loss, no metric, no checkpoint.
"""
