"""Readers of the forms in which zoos were published: zips of pickles become zoo directories.

`importing.import_zoo` turns a source into zoo directories; `zenodo.download` fetches one first.
Nothing from a file is ever executed: `archive` reads zips in place, `checkpoint` reads torch's
files without torch, with a closed list of names, and `tarball` unpacks a few files for as long as
they are read. `run_table` describes checkpoints of any training code by a table.
"""
