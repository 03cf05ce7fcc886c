"""The wire of the evaluation API: messages, both of its ends, and the file it leaves."""
