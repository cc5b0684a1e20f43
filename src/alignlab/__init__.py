"""AlignLab: the small library that the book and its labs share. Import what you need: `from alignlab import lab`."""

__version__ = "0.5.1"
