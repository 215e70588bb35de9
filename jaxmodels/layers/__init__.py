"""Pure functions on arrays and the frozen dataclasses that own their shapes. Knows no model.

One glossary of dimensions, in every signature, einsum and rearrangement:

    B batch           S sequence (window)   T cache slots     D model
    V vocabulary      L layers              N query heads     K key/value heads
    M query heads per key/value head        H head dim        F feed-forward     E experts
    SSD: C chunks     Q chunk length        N heads           P head dim
         G groups     M heads per group     R state dim       W convolution taps
    Delta rule: as SSD; G key heads of R features, N value heads of P
    Recurrent layers: I inner channels
    Latent attention: R latent width        X shared key dim  I value dim
    Images: H height  W width   C channels  P numbers of a patch   A axes of a position
    Conditions: cond width of a condition   T, C tokens of a text and their width
"""
