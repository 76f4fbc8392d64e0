"""All that is asked of Ray, of this process and of the machine beyond everyday calls. Private API of Ray is only here.

It must not know what a run trains: no loss, no metric, no checkpoint.
"""
