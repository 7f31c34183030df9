"""What the checks put to work: drawn images, random networks, short trainings, processes of their own."""
