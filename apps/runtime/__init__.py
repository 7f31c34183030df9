"""Running an exported model without torch."""
