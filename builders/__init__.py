"""From a zoo to a data set: catalog, layouts, the on-disk form, columns, splits."""
