"""Files and URLs: atomic writes, JSON Lines, retries, and remote storage.

This package does not depend on the content of the files, and must import neither Ray nor torch.
"""
