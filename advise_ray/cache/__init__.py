"""The feature cache: stores the output of the image model and of the SFU's fixed part for each frame.

    DIR/cache.json        the settings that the features depend on (`identity`)
    DIR/part-*.arrow      the features, Arrow IPC, a record batch for each piece of a video (`part_file`)
    DIR/index.parquet     the part and row of each piece (`piece_index`)
    DIR/rejects.parquet   the videos that cannot be decoded (`store`)

The parts are Arrow IPC files, because these can be mapped into memory. Reading Parquet is much slower, and its
compression saves little.
"""
