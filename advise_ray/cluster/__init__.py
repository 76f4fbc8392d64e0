"""`--cluster`: the cluster file, Ray's launcher, the job on the head, and the checks of all nodes before it starts.

This package must not depend on what the job does.
"""
