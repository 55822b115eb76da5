"""Files and folders of the user's, and originals of published sets: one kind of them a file."""
