"""What can be learned from a zoo; reads zoos only through load_dataset."""
