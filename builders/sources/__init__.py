"""Import of published zoos and of other people's checkpoints into zoo directories.

`importing.import_zoo` turns a source into zoo directories; `zenodo.download` fetches one first.
Each source format has a module that reads it (`ray_tune`, `preprocessed`, `small_cnn_zoo`,
`read_run_table`) and one that imports what was read (`import_trials`, ...). The importing modules
share `import_job`, `processes` and `write_model`; `cells` reads the values of tables.

Nothing from a file is ever executed: `archive` reads zips in place, `checkpoint` reads torch's
files without torch, `pickles` interprets their pickles with a closed list of functions, and
`tarball` unpacks a few files into a temporary folder. `run_table` holds checkpoints of any training
code, described by a table.
"""
