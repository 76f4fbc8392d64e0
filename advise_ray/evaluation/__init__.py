"""What a trained model is worth: the protocols of the paper and of its neighbours, on Ray Data over all videos.

Empty, so that the processes that decode import nothing else.
"""
