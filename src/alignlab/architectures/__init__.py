"""Architectures beside the decoder, and the parts that can be exchanged in it, one module each."""
