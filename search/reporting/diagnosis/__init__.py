"""What a finished trial shows: numbers, words, pictures and a page."""
