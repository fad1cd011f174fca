"""How well a model predicts text, in a unit that compares models of different tokenizers."""

from mergekit_omp.evaluation.bits_per_byte import DocumentScore, TextScore, bits_per_byte

__all__ = ["DocumentScore", "TextScore", "bits_per_byte"]
