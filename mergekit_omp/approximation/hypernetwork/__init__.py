"""ZeTT hypernetworks: a trained network that predicts a token's rows from its bytes.

Minixhofer, Ponti & Vulić 2024, https://arxiv.org/abs/2405.07883.
"""
