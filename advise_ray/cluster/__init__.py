"""Running a command on a Ray cluster: its file, its launcher, the job, and what is checked before it works."""
