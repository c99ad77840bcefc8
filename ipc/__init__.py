"""The bytes between processes: messages, their encoding, framing, and the one module that moves them."""
