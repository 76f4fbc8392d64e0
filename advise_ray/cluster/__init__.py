"""`--cluster`: the cluster file, Ray's launcher, the job on the head, and the checks of all nodes before it starts.

It must not know what the job does.
"""
