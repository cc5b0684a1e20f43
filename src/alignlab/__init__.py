"""AlignLab: the small library that the book and its labs share. Import the module you need: `from alignlab import lab`."""

__version__ = "0.1.0"
