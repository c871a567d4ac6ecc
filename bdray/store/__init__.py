"""Store: rows, curves and victims in a folder or a bucket. Everything that reads or writes a file of a store is here."""
