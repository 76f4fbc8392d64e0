"""Experiments over a suite of data sets: one pretraining on a pool, many fine-tunings, and what they say together.

suite        which videos a run learns from and is tested on
arms         the trainings, and what is measured of each
repeats      all of them, side by side; what is done is kept
rival        the same against a 3D network that is trained end to end
bootstrap    intervals
results_page the table and the picture
"""
