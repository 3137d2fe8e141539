"""Zoo directories to and from a repository on the Hugging Face Hub."""
