"""Readers of the forms in which zoos were published: zips of pickles become zoo directories.

`importing.import_zoo` turns a source into zoo directories; `zenodo.download` fetches one first.
Nothing from a file is ever executed, and no file of a source is written to disk: `archive` reads
zips in place, `checkpoint` reads torch's files without torch, with a closed list of names.
"""
