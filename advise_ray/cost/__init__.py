"""What a run will cost in time and money: predicted from rates, and the rates measured on this machine.

It must not start a run.
"""
