"""The frozen-feature cache: what the image model and the SFU's fixed part make of each frame, computed once and kept.

    DIR/cache.json        what the features depend on (`identity`)
    DIR/part-*.arrow      the features, Arrow IPC, a record batch for each piece of a video (`part_file`)
    DIR/index.parquet     where each piece lies (`store`)
    DIR/rejects.parquet   the videos that cannot be decoded

Arrow IPC and not Parquet, since it can be mapped: four clips from each of 24 videos (11 MB each, 7×7 cells of 768
channels) took 13 ms, from Parquet, plain or zstd, 1.5 s and more; zstd would have saved 15 % of the disk.
"""
