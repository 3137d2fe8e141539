"""A zoo as data: its architecture, specification, files on disk and rows. Imports no torch."""
