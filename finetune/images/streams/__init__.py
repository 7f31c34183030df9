"""What an image file is made of, looked at before a decoder sees it."""
