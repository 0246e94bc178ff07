"""LiteReason: text with tags that each ask for a few latent steps of a projector (arXiv:2512.02240)."""

from methods.litereason.config import LiteReasonConfig
from methods.litereason.method import LiteReason

__all__ = ["LiteReason", "LiteReasonConfig"]
