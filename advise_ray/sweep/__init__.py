"""`advise-ray tune`: Ray Tune runs the trials of a search space, and a table compares them.

It must not know clusters or commands.
"""
