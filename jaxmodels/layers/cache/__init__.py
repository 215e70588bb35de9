"""Cache policies: where an attention layer keeps keys and values, which of them a query reads, what stays.

`policy` has the protocol; `FullCache` is the default of every layer. See docs/add_a_cache_policy.md.
"""
