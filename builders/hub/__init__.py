"""Zoo directories to and from a repository on the Hugging Face Hub.

Its modules:

    build.py        zoo directories to a repository folder: Parquet files and the card
    publish.py      a repository folder to the Hub, in one commit (several for very many files)
    incremental.py  a large zoo to the Hub model by model; remote_zoo.py reads what is there,
                    freeing.py deletes what was published, publisher.py does it during training
    read.py         the rows of a repository or of a repository folder

remote.py holds what they share: requests to the Hub, uploads and commits.
"""
