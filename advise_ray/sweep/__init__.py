"""`advise-ray tune`: runs the trials of a search space with Ray Tune and compares them in a table.

This package must not depend on clusters or commands.
"""
