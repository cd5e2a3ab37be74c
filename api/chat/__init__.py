"""Generation over HTTP, as OpenAI's clients expect it."""
