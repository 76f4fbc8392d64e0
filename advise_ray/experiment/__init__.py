"""Experiments over a suite of data sets: pretraining on a pool, many fine-tunings, and statistics over all of them.

suite        selects the training and test videos of each run
arms         runs one training and measures its result
repeats      runs all trainings in parallel and keeps finished results
rival        compares AdViSe with a 3D network that is trained end to end
bootstrap    computes confidence intervals
results_page writes the table and the figure
"""
