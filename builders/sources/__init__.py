"""Import of published zoos and of other people's checkpoints into zoo directories.

`importing.import_zoo` turns a source into zoo directories; `zenodo.download` fetches one first.
Each form of sources has a module that reads it (`ray_tune`, `preprocessed`, `small_cnn_zoo`,
`run_table`) and one that imports what was read (`import_trials`, ...). What the latter share is in
`import_job`, `processes` and `write_model`; `cells` reads the values of tables.

Nothing from a file is ever executed: `archive` reads zips in place, `checkpoint` reads torch's
files without torch, `pickles` runs their pickles with a closed list of functions, and `tarball`
unpacks a few files for as long as they are read. `run_table` describes checkpoints of any training
code by a table.
"""
