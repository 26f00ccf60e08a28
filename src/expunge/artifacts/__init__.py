"""What unlearning leaves on disk: manifests, hashes, and folders that appear whole or not at all."""
