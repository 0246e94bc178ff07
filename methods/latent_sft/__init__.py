"""Latent-SFT: latent tokens as superpositions over the vocabulary (arXiv:2510.15522)."""

from methods.latent_sft.config import LatentSFTConfig
from methods.latent_sft.method import LatentSFT

__all__ = ["LatentSFT", "LatentSFTConfig"]
