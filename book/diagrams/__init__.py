"""The book's diagrams as code: one shared kit, one module per chapter.

A diagram is a function `name(narrow: bool = False) -> kit.Diagram`; the book inlines its wide and its narrow drawing.
"""
