"""What a task says of its exported models: on their card, in the demo, and of data that they are run on."""
