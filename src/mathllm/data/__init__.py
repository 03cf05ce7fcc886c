"""Problems from files, rows to chat, chat to tokens, tokens to batches."""
