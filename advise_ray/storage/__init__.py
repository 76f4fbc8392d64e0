"""Files and URLs: files that appear whole, JSON Lines, retries, remote storage.

It must not know what the files hold, and imports neither Ray nor torch.
"""
