"""Zoo directories to and from a repository on the Hugging Face Hub.

The ways to and from it:

    build.py        zoo directories to the folder of a repository: Parquet files and the card
    publish.py      such a folder to the Hub, in one commit (several for very many files)
    incremental.py  a large zoo to the Hub model by model; publisher.py does it during training
    read.py         the rows of a repository or of such a folder

remote.py has what they share of the Hub: requests, uploads and commits.
"""
