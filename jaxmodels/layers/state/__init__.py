"""Policies of the state that a linear recurrence keeps of a history: the middle of a recurrent mixer.

One file per policy; `policy.py` has the protocol, `terms.py` the arithmetic of tokens that are not folded in.
"""
